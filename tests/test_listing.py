"""The list of devices: what ports say of themselves, and what is behind them if asked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from host import infer, listing
from host.listing import SerialPort, asked, serial_ports
from hw.boards import names
from tests.fake_device import IDENTITY, FakeDevice, terminal


def port(device, **known):
    """A port as pyserial lists it."""
    nothing = dict.fromkeys(("vid", "pid", "serial_number", "manufacturer"))
    return SimpleNamespace(device=device, **nothing | {"description": "n/a"} | known)


@pytest.fixture
def ports(monkeypatch):
    """The ports that the system has."""
    there: list[SimpleNamespace] = []
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: there)
    return there


def listed(capsys, *words):
    assert infer.main(["--list-devices", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    return lines


def test_ports_say_what_they_are(ports):
    usb = {"vid": 0x0403, "pid": 0x6015, "serial_number": "D00042", "manufacturer": "FTDI"}
    ports += [port("/dev/ttyUSB1"), port("/dev/ttyUSB0", description="FT231X\nUSB UART", **usb)]
    about = "FT231X USB UART, FTDI, USB 0403:6015, serial number D00042"
    assert serial_ports() == [
        SerialPort(path="/dev/ttyUSB0", about=about),
        SerialPort(path="/dev/ttyUSB1", about="of an unknown kind"),
    ]


def test_nothing_is_opened_unless_asked(ports, capsys, monkeypatch):
    ports.append(port("/dev/ttyUSB0", description="FT231X " * 20))
    monkeypatch.setattr(listing, "serial_port", lambda path: pytest.fail(f"opens {path}"))
    first, *lines = listed(capsys)
    assert first == "/dev/ttyUSB0" and lines[0].startswith("    FT231X FT231X")
    urls = [line.split()[0] for line in lines if "://" in line]
    assert urls == [*(f"sim://{name}" for name in names()), "native://", "golden://"]
    assert next(line for line in lines if "sim_tiny" in line).endswith("16 lanes at 50 MHz")


def test_a_device_says_what_it_is(ports, capsys):
    fake = FakeDevice()
    with terminal(fake) as path:
        ports.append(port(path))
        text = " ".join(" ".join(listed(capsys, "--identify")).split())
        assert f"fake, 64 lanes at 25 MHz, digest {IDENTITY.digest.hex()}" in text
    assert fake.writes == 0 and fake.session == 0


def test_a_port_with_something_else(ports, capsys):
    silent = FakeDevice()
    silent.respond = lambda frame: frame  # an echo, which is no answer
    with terminal(silent) as path:
        assert asked(path).startswith("no answer to IDENTIFY after 2 tries, only ")
        with listing.serial_port(path) as other:
            assert other.is_open
            assert asked(path) == "another program uses this port; close that one"
    assert asked("/dev/nonsense").startswith("there is no such serial port")


def test_no_port(ports, capsys):
    assert listed(capsys)[0] == "no serial port: connect a board that has its bitstream"


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--identify", "--prompt", "a"], "--identify is for --list-devices"), ([], "--prompt")],
)
def test_wrong_usage(capsys, words, message):
    with pytest.raises(SystemExit) as end:
        infer.main(words)
    assert end.value.code == 2 and message in capsys.readouterr().err
