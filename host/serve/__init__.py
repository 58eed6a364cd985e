"""A server: one device for many programs and people, by OpenAI's endpoints and a page.

================== ================================================================================
``scheduler.py``   one thread that owns the device; sessions that share it slice by slice
``prefixes.py``    states by the tokens that led to them, so that nothing is read twice
``messages.py``    what programs send and get: OpenAI's requests, answers and errors
``errors.py``      what goes wrong, as such an answer
``service.py``     what all endpoints share; limits
``answers.py``     a request's session, and the text that its tokens say, up to a string of
                   ``stops.py``
``endpoints.py``   what a route is; ``completions.py``, ``facts.py`` and ``watch.py`` have them,
                   and ``openapi.py`` their document
``stories.py``     texts of all answers for whoever watches; ``page.html`` is what people see
``application.py`` the table of routes; ``guard.py`` is before them
``listening.py``   the server below: socket, connections, slow clients, the end
================== ================================================================================
"""
