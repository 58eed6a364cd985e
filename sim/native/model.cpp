// The integer model of docs/arithmetic.md on a CPU, for sim/native through ctypes.
//
// Every vector is padded with zeros to whole blocks of 16, every matrix to whole blocks of 16 rows
// with trits that are zero: nothing here has a remainder to care for, and padding changes no sum.
// "constants.h" is written by sim/native out of the formulas' own constants and tables.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "constants.h"

namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words of trits are little-endian");

constexpr size_t BLOCK = 16;      // elements that vectors, and rows that matrices are padded to
constexpr size_t GROUP = 16;      // columns whose trits share a 32-bit word
constexpr size_t ALIGNMENT = 64;  // bytes: a cache line, and the longest vector of a processor
constexpr size_t HUGE_PAGE = 1 << 21;
constexpr size_t PART_TRITS = 1 << 18;  // what is worth giving to another thread
constexpr int PATIENCE = 4000;          // looks for work, or its end, before a thread sleeps

size_t padded(size_t count) { return (count + BLOCK - 1) / BLOCK * BLOCK; }

// Zeros, aligned; in huge pages where there are enough of them.
template <class T>
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(size_t count) : count_(count) {
        size_t bytes = count * sizeof(T);
        size_t alignment = bytes < HUGE_PAGE ? ALIGNMENT : HUGE_PAGE;
        bytes = (bytes + alignment - 1) / alignment * alignment;
        if (!bytes) return;
        void *memory = std::aligned_alloc(alignment, bytes);
        if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (alignment == HUGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
        std::memset(memory, 0, bytes);
        data_.reset(static_cast<T *>(memory));
    }
    // Values from elsewhere, padded.
    template <class Source>
    Buffer(const Source *source, size_t count) : Buffer(padded(count)) {
        std::copy_n(source, count, data_.get());
    }

    size_t size() const { return count_; }
    T *data() { return data_.get(); }
    const T *data() const { return data_.get(); }
    T &operator[](size_t index) { return data_.get()[index]; }
    const T &operator[](size_t index) const { return data_.get()[index]; }

  private:
    struct Free {
        void operator()(T *memory) const { std::free(memory); }
    };
    size_t count_ = 0;
    std::unique_ptr<T, Free> data_;
};

template <class T>
T *aligned(T *pointer) {
    return static_cast<T *>(__builtin_assume_aligned(pointer, ALIGNMENT));
}

// Numbers -------------------------------------------------------------------------------------

// value / 2**amount to the nearest, halves upwards; exact for 0.
inline int64_t round_shift(int64_t value, int amount) {
    return (value + (amount ? int64_t{1} << (amount - 1) : 0)) >> amount;
}

template <class T>
inline T least(T a, T b) { return a < b ? a : b; }

template <class T>
inline T most(T a, T b) { return a < b ? b : a; }

inline int64_t saturate(int64_t value, int bits) {
    const int64_t limit = int64_t{1} << (bits - 1);
    return least(most(value, -limit), limit - 1);
}

// Of the four places from `first` on, four apart, the one that stands for a shift by `amount`.
inline int place(int amount, int first) {
    return first + least(most((amount - first + 2) & ~3, 0), 12);
}

inline int32_t shifted(int32_t value, int amount) {
    return amount < 0 ? value * (1 << -amount) : value >> amount;
}

// What a shift by that place and not by `amount` leaves to a mantissa.
inline int32_t coefficient(int32_t mantissa, int amount, int first) {
    const int moved = least(place(amount, first) - amount, 2);
    return moved > 0 ? mantissa << moved : mantissa >> least(-moved, MANTISSA_BITS);
}

// weights.fixed.Scale, operation by operation; every operation truncates, and x / 0 is 0.
struct Scale {
    int32_t mantissa = 0, exponent = 0;

    static Scale of(uint64_t value, int exponent = 0) {
        if (!value) return {};
        int excess = 64 - __builtin_clzll(value) - MANTISSA_BITS;
        uint64_t mantissa = excess > 0 ? value >> excess : value << -excess;
        return {static_cast<int32_t>(mantissa), exponent + excess};
    }
    Scale operator*(Scale other) const {
        if (!mantissa || !other.mantissa) return {};
        int32_t product = mantissa * other.mantissa;
        int excess = product >> (2 * MANTISSA_BITS - 1) ? MANTISSA_BITS : MANTISSA_BITS - 1;
        return {product >> excess, exponent + other.exponent + excess};
    }
    Scale operator/(Scale other) const {
        if (!mantissa || !other.mantissa) return {};
        int extra = mantissa >= other.mantissa ? MANTISSA_BITS - 1 : MANTISSA_BITS;
        return {(mantissa << extra) / other.mantissa, exponent - other.exponent - extra};
    }
    Scale operator+(Scale other) const {
        if (!mantissa) return other;
        if (!other.mantissa) return *this;
        const Scale &big = exponent >= other.exponent ? *this : other;
        const Scale &small = exponent >= other.exponent ? other : *this;
        const int behind = std::min(big.exponent - small.exponent, 31);
        int32_t total = big.mantissa + (small.mantissa >> behind);
        int carry = total >> MANTISSA_BITS;
        return {total >> carry, big.exponent + carry};
    }
    Scale sqrt() const {
        if (!mantissa) return {};
        int odd = exponent & 1;
        double square = mantissa << (MANTISSA_BITS - 1 + odd);  // of 30 bits: its root is exact
        return {static_cast<int32_t>(std::sqrt(square)), (exponent - odd - MANTISSA_BITS + 1) / 2};
    }
};

constexpr Scale FULL_SCALE{FULL_SCALE_MANTISSA, FULL_SCALE_EXPONENT};

Scale sigma_of(Scale peak, Scale square, Scale constant) {
    return peak / square.sqrt() * constant;
}

inline int32_t interpolate(int32_t entry, int32_t fraction) {
    int32_t base = entry >> DELTA_BITS;
    int32_t delta = static_cast<int32_t>(static_cast<uint32_t>(entry) << (32 - DELTA_BITS)) >>
                    (32 - DELTA_BITS);
    return base + (delta * fraction >> FRACTION_BITS);
}

// sigmoid(z) is GATE_HALF and that, for any sign.
inline int32_t half_sigmoid(int32_t z) {
    const int32_t sign = z >> 31, magnitude = z ^ sign;
    return sign ^ interpolate(SIGMOID[magnitude >> FRACTION_BITS], magnitude & FRACTION_MASK);
}

inline int32_t silu(int32_t z) {
    return static_cast<int32_t>(int64_t{z} * (GATE_HALF + half_sigmoid(z)) >> GATE_BITS);
}

inline int32_t gumbel(uint32_t t) {
    const uint32_t mantissa = t & DRAW_MASK;
    const int zeros = __builtin_clz((t >> DRAW_BITS) * 2 | 1) - (31 - LAST_OCTAVE);
    return interpolate(GUMBEL[zeros << OCTAVE_BITS | mantissa >> FRACTION_BITS],
                       mantissa & FRACTION_MASK);
}

inline uint32_t next_draw(uint32_t state) {
    state ^= state << NOISE_STEP[0];
    state ^= state >> NOISE_STEP[1];
    return state ^ state << NOISE_STEP[2];
}

// Threads -------------------------------------------------------------------------------------

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

// Threads that share out work; the calling one does all that the others do not come to.
class Pool {
  public:
    explicit Pool(size_t helpers) : owner_(getpid()) {
        try {
            while (threads_.size() < helpers) threads_.emplace_back([this] { help(); });
        } catch (...) {
            end();
            throw;
        }
    }
    ~Pool() { end(); }
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;

    // Calls work(part) for 0 <= part < parts, each once, and returns when all have returned;
    // in this thread alone if they are not worth sharing.
    template <class Work>
    void run(int parts, bool worth, const Work &work) {
        if (!worth || threads_.empty() || getpid() != owner_) {  // a fork has no helpers
            for (int part = 0; part < parts; ++part) work(part);
            return;
        }
        call_ = [](const void *context, int part) { (*static_cast<const Work *>(context))(part); };
        context_ = &work;
        done_.store(0, std::memory_order_relaxed);
        left_.store(parts);
        if (sleeping_.load()) {
            std::lock_guard<std::mutex> lock(mutex_);
            wake_.notify_all();
        }
        take();
        const auto finished = [&] { return done_.load() == parts; };
        for (int looks = 0; looks < PATIENCE && !finished(); ++looks) pause();
        if (!finished()) {  // another program has the processor of a helper
            std::unique_lock<std::mutex> lock(mutex_);
            waiting_.store(true);
            last_.wait(lock, finished);
            waiting_.store(false);
        }
    }

  private:
    // Whoever takes a part sees the call that it belongs to, which ends only when the part is done.
    void take() {
        while (left_.load(std::memory_order_relaxed) > 0) {
            int part = left_.fetch_sub(1, std::memory_order_acquire) - 1;
            if (part < 0) return;
            call_(context_, part);
            done_.fetch_add(1);
            if (waiting_.load()) {
                std::lock_guard<std::mutex> lock(mutex_);
                last_.notify_one();
            }
        }
    }

    void help() {
        while (!ended_.load(std::memory_order_relaxed)) {
            int looks = 0;
            while (left_.load(std::memory_order_relaxed) <= 0 && looks < PATIENCE) ++looks, pause();
            if (looks == PATIENCE) {
                std::unique_lock<std::mutex> lock(mutex_);
                ++sleeping_;
                wake_.wait(lock, [this] { return ended_.load() || left_.load() > 0; });
                --sleeping_;
            }
            take();
        }
    }

    void end() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            ended_.store(true);
        }
        wake_.notify_all();
        for (std::thread &thread : threads_) thread.join();
    }

    pid_t owner_;
    void (*call_)(const void *, int) = nullptr;
    const void *context_ = nullptr;
    alignas(ALIGNMENT) std::atomic<int> left_{0};
    alignas(ALIGNMENT) std::atomic<int> done_{0};
    alignas(ALIGNMENT) std::atomic<int> sleeping_{0};
    std::atomic<bool> waiting_{false}, ended_{false};
    std::mutex mutex_;
    std::condition_variable wake_, last_;
    std::vector<std::thread> threads_;
};

// Ternary products ----------------------------------------------------------------------------
//
// A word holds trits plus one of 16 columns of a row: those of column 4k + b in bits 2k of byte b.
// Byte by byte, the word under the mask 3 << 2k is then 4**k times what multiplies columns 4k to
// 4k + 3, and products of it add up to 4**k times the sum: each k has its own sums, which are
// shifted at the end only. What the plus one adds is the sum of all codes.

#if defined(__AVX512VNNI__)
#define HAS_VECTORS
typedef int32_t Lanes __attribute__((vector_size(64), may_alias));
inline Lanes all(int32_t value) { return (Lanes)_mm512_set1_epi32(value); }
inline Lanes dot(Lanes sums, Lanes words, Lanes codes) {
    return (Lanes)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)words, (__m512i)codes);
}
#elif defined(__AVX2__)
#define HAS_VECTORS
typedef int32_t Lanes __attribute__((vector_size(32), may_alias));
inline Lanes all(int32_t value) { return (Lanes)_mm256_set1_epi32(value); }
inline Lanes dot(Lanes sums, Lanes words, Lanes codes) {
#if defined(__AVXVNNI__)
    return (Lanes)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)words, (__m256i)codes);
#else  // pairs are 2 * 128 * 127 at most, so that they do not saturate
    __m256i pairs = _mm256_maddubs_epi16((__m256i)words, (__m256i)codes);
    return sums + (Lanes)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}
#endif

#ifdef HAS_VECTORS

constexpr size_t LANES = sizeof(Lanes) / sizeof(int32_t);
constexpr size_t STEP = std::max(BLOCK, 2 * LANES);  // rows at once: eight sums hide their latency

// Sums of `count` vectors of rows. `words` are those of a block of rows, group by group.
template <size_t count>
inline void multiply_rows(const uint32_t *words, size_t groups, const int8_t *codes, int32_t bias,
                          int32_t *sums) {
    Lanes total[count][4];
    for (auto &vector : total) {
        vector[0] = all(bias);
        for (int k = 1; k < 4; ++k) vector[k] = all(0);
    }
    const Lanes mask[4] = {all(0x03030303), all(0x0C0C0C0C), all(0x30303030),
                           all(static_cast<int32_t>(0xC0C0C0C0))};
    for (size_t group = 0; group < groups; ++group) {
        int32_t four[4];
        std::memcpy(four, codes + GROUP * group, GROUP);
        const Lanes code[4] = {all(four[0]), all(four[1]), all(four[2]), all(four[3])};
        for (size_t n = 0; n < count; ++n) {
            const size_t row = n * LANES;
            const uint32_t *from = words + (row / BLOCK * groups + group) * BLOCK + row % BLOCK;
            // The same of the rows to come, which processors do not foresee across pages.
            __builtin_prefetch(from + count * LANES * groups);
            const Lanes word = *reinterpret_cast<const Lanes *>(from);
            for (int k = 0; k < 4; ++k) total[n][k] = dot(total[n][k], word & mask[k], code[k]);
        }
    }
    for (size_t n = 0; n < count; ++n) {
        const Lanes low = total[n][0] + (total[n][1] >> 2);
        const Lanes sum = low + (total[n][2] >> 4) + (total[n][3] >> 6);
        std::memcpy(sums + n * LANES, &sum, sizeof sum);
    }
}

void multiply_blocks(const uint32_t *words, size_t blocks, size_t groups, const int8_t *codes,
                     int32_t bias, int32_t *sums) {
    size_t rows = blocks * BLOCK, row = 0;
    for (; row + STEP <= rows; row += STEP) {
        multiply_rows<STEP / LANES>(words + row * groups, groups, codes, bias, sums + row);
    }
    if (row < rows) {
        multiply_rows<BLOCK / LANES>(words + row * groups, groups, codes, bias, sums + row);
    }
}

#else

void multiply_blocks(const uint32_t *words, size_t blocks, size_t groups, const int8_t *codes,
                     int32_t bias, int32_t *sums) {
    for (size_t block = 0; block < blocks; ++block, sums += BLOCK) {
        int32_t total[BLOCK];
        for (int32_t &sum : total) sum = bias;
        for (size_t group = 0; group < groups; ++group, words += BLOCK) {
            for (size_t column = 0; column < GROUP; ++column) {
                const int32_t code = codes[GROUP * group + column];
                const int shift = 8 * (column % 4) + 2 * (column / 4);
                for (size_t row = 0; row < BLOCK; ++row) {
                    total[row] += static_cast<int32_t>(words[row] >> shift & 3) * code;
                }
            }
        }
        std::copy_n(total, BLOCK, sums);
    }
}

#endif

// A word of 16 trits as the model file has them: trits plus one, column 4 b + k to 4 k + b.
uint32_t repacked(uint32_t word) {
    uint32_t moved = (word >> 6 ^ word) & 0x00CC00CC;
    word ^= moved ^ moved << 6;
    moved = (word >> 12 ^ word) & 0x0000F0F0;
    word ^= moved ^ moved << 12;
    return (~word & 0x55555555) | ((word ^ word << 1) & 0xAAAAAAAA);
}

struct Codes {
    explicit Codes(size_t most) : values(padded(most)) {}
    Buffer<int8_t> values;
    int32_t sum = 0;
    Scale peak;
};

// A ternary matrix with what gains, quantises and scales its input.
struct Matrix {
    size_t blocks = 0, groups = 0;
    Buffer<int16_t> gain;
    Scale constant;
    Buffer<uint32_t> words;

    // `parts` times `rows` rows, each part padded by itself.
    Matrix(const int16_t *gain_, const uint8_t *trits, const int32_t *scale, size_t rows,
           size_t columns, size_t parts = 1)
        : blocks(parts * padded(rows) / BLOCK),
          groups(padded(columns) / GROUP),
          gain(gain_, columns),
          constant{scale[0], scale[1]},
          words(blocks * groups * BLOCK) {
        const size_t bytes = (columns + 3) / 4;
        for (size_t at = 0; at < parts * padded(rows); ++at) {
            const size_t part = at / padded(rows), row = at % padded(rows);
            const uint8_t *from = trits + (part * rows + row) * bytes;
            uint32_t *to = &words[at / BLOCK * groups * BLOCK + at % BLOCK];
            for (size_t group = 0; group < groups; ++group) {
                uint32_t word = 0;
                if (row < rows) {
                    std::memcpy(&word, from + 4 * group, std::min<size_t>(4, bytes - 4 * group));
                }
                to[group * BLOCK] = repacked(word);
            }
        }
    }
};

// One product of several that are made at once.
struct Product {
    const Matrix *matrix;
    const Codes *codes;
    int32_t *sums;
};

// Vectors -------------------------------------------------------------------------------------

// What brings vectors of that peak into 18 bits: one of four shifts.
int block_shift(Scale peak) {
    const int excess = peak.exponent + MANTISSA_BITS - (OPERAND_BITS - 1);
    for (const int shift : BLOCK_SHIFTS) {
        if (excess <= shift) return shift;
    }
    return BLOCK_SHIFTS[3];
}

// Integers times a scale: the product of what a multiplier takes, and the shift that is left to do.
struct Scaled {
    int before;
    int32_t factor;
    int amount;
    int64_t half;

    Scaled(Scale scale, int shift, int first, int before_ = 0)
        : before(before_),
          factor(coefficient(scale.mantissa, shift - scale.exponent, first)),
          amount(place(shift - scale.exponent, first)),
          half(int64_t{1} << (amount - 1)) {}
    int64_t product(int32_t value) const { return int64_t{shifted(value, before)} * factor; }
    int64_t operator()(int32_t value) const { return (product(value) + half) >> amount; }
    int32_t preactivation(int32_t sum) const {
        return static_cast<int32_t>(saturate(product(sum) >> amount, OPERAND_BITS));
    }
};

// Sums, which are shifted right before, as fixed point numbers of that fraction.
Scaled scaled_sums(Scale sigma, int fraction, int before) {
    return {sigma, -fraction - before, PRODUCT_PLACE, before};
}

// A block-scaled vector: `values >> shift` has 18 bits.
struct Normed {
    const int32_t *values;
    size_t count;
    int shift;

    Normed(const int32_t *vector, size_t count_) : values(aligned(vector)), count(count_) {
        int32_t peak = 0;
        for (size_t i = 0; i < count; ++i) peak = most(peak, values[i] ^ values[i] >> 31);
        shift = block_shift(Scale::of(peak + 1));
    }

    // Sum of squares, gained by a table.
    Scale energy(const Buffer<int16_t> &table) const {
        const int16_t *gain = aligned(table.data());
        int64_t sum = 0;
        for (size_t i = 0; i < count; ++i) {
            int32_t gained = int64_t{shifted(values[i], shift)} * gain[i] >> NORM_SHIFT;
            sum += int64_t{gained} * gained;
        }
        return Scale::of(sum, 2 * (NORM_SHIFT + shift));
    }

    void quantise(const Matrix &matrix, Codes &codes, Buffer<int32_t> &scratch) const {
        const int16_t *gain = aligned(matrix.gain.data());
        int32_t *gained = aligned(scratch.data());
        int8_t *result = aligned(codes.values.data());
        int32_t peak = 0;
        for (size_t i = 0; i < count; ++i) {
            int32_t value = int64_t{shifted(values[i], shift)} * gain[i] >> GAIN_SHIFT;
            gained[i] = value;
            peak = most(peak, value ^ value >> 31);
        }
        codes.peak = Scale::of(peak + 1, GAIN_SHIFT + shift);
        const Scaled coded(FULL_SCALE / codes.peak, -GAIN_SHIFT - shift, CODE_PLACE);
        int32_t sum = 0;
        for (size_t i = 0; i < count; ++i) {
            const int32_t code = static_cast<int32_t>(coded(gained[i]));
            result[i] = static_cast<int8_t>(code);
            sum += code;
        }
        codes.sum = sum;
    }
};

// Sum of squares of a vector that is shifted.
Scale plain_energy(const int32_t *values, size_t count, int shift) {
    values = aligned(values);
    int64_t sum = 0;
    for (size_t i = 0; i < count; ++i) {
        int32_t gained = shifted(values[i], shift) >> PLAIN_SHIFT;
        sum += int64_t{gained} * gained;
    }
    return Scale::of(sum, 2 * (shift + PLAIN_SHIFT));
}

inline int32_t gated(int32_t factor, int32_t sum, int sum_shift) {
    const int64_t product = int64_t{factor} * (shifted(sum, sum_shift));
    return static_cast<int32_t>(saturate(round_shift(product, PRODUCT_SHIFT), RESIDUAL_BITS));
}

// Vectors of a layer, element by element: what each function writes is nothing that it reads
// elsewhere, so that compilers make vectors of it.

// z * sigmoid(z) * u of a gate's sums and the other half's.
void glu(size_t count, const int32_t *__restrict gate, const int32_t *__restrict up,
         int32_t *__restrict result, Scaled scaled, int sum_shift) {
    gate = aligned(gate), up = aligned(up), result = aligned(result);
    for (size_t at = 0; at < count; ++at) {
        const int32_t z = scaled.preactivation(gate[at]);
        result[at] = gated(silu(z), up[at], sum_shift);
    }
}

// The MLGRU: new states, and what they give with the sums of g.
void mlgru(size_t count, const int32_t *__restrict i, const int32_t *__restrict f,
           const int32_t *__restrict g, const int16_t *__restrict lower_bound,
           int32_t *__restrict state, int32_t *__restrict result, Scaled candidate, Scaled forget,
           int sum_shift) {
    i = aligned(i), f = aligned(f), g = aligned(g), lower_bound = aligned(lower_bound);
    state = aligned(state), result = aligned(result);
    for (size_t at = 0; at < count; ++at) {
        const int32_t c = silu(candidate.preactivation(i[at])) * (1 << HIDDEN_EXTRA);
        const int32_t rest = least(GATE_ONE - lower_bound[at], GATE_MAX);
        const int32_t z = forget.preactivation(f[at]);
        const int32_t share = rest * (GATE_HALF + ~half_sigmoid(z)) >> GATE_BITS;
        const int64_t change = (c >> CHANGE_SHIFT) - (state[at] >> CHANGE_SHIFT);
        const int64_t s = state[at] + round_shift(change * share, PRODUCT_SHIFT);
        state[at] = static_cast<int32_t>(saturate(s, HIDDEN_BITS));
        result[at] = gated(silu(state[at] >> HIDDEN_EXTRA), g[at], sum_shift);
    }
}

// The keys of a choice in place of sums.
void perturb(size_t count, const uint32_t *__restrict draws, int32_t *__restrict sums,
             Scaled scaled) {
    draws = aligned(draws), sums = aligned(sums);
    for (size_t at = 0; at < count; ++at) {
        const int64_t key = scaled(sums[at]) + gumbel(draws[at]);
        sums[at] = static_cast<int32_t>(saturate(key, RESIDUAL_BITS));
    }
}

size_t first_of_largest(const int32_t *values, size_t count) {
    int32_t largest = values[0];
    for (size_t at = 0; at < count; ++at) largest = most(largest, values[at]);
    return std::find(values, values + count, largest) - values;
}

// x + sums * sigma
void accumulate(size_t count, const int32_t *__restrict sums, int32_t *__restrict x,
                Scaled scaled) {
    sums = aligned(sums), x = aligned(x);
    for (size_t at = 0; at < count; ++at) {
        x[at] = static_cast<int32_t>(saturate(x[at] + scaled(sums[at]), RESIDUAL_BITS));
    }
}

// The model -----------------------------------------------------------------------------------

struct Shape {
    uint32_t hidden, layers, intermediate, vocabulary, threads;
    int32_t residual_fraction;             // of the machine's residual stream
    int32_t hidden_shift, middle_shift;    // of sums of so many codes
    int32_t epsilon_exponent;              // that a model's constants of gated vectors lack
};

// Tensors in the order in which sim/native lists them.
struct Reader {
    const void *const *next;

    template <class T>
    const T *take() { return static_cast<const T *>(*next++); }
    Buffer<int16_t> table(size_t count) { return {take<int16_t>(), count}; }
    Scale scale() {
        const int32_t *both = take<int32_t>();
        return {both[0], both[1]};
    }
    Matrix matrix(size_t rows, size_t columns, size_t parts = 1) {
        const int16_t *gain = take<int16_t>();
        const uint8_t *trits = take<uint8_t>();
        return {gain, trits, take<int32_t>(), rows, columns, parts};
    }
};

struct Layer {
    Buffer<int16_t> norm;
    Matrix i, f, g;
    Buffer<int16_t> lower_bound, o_norm;
    Matrix o;
    Scale o_epsilon;
    Buffer<int16_t> mlp_norm;
    Matrix gate, down;
    Scale down_epsilon;
    Buffer<int32_t> state;

    Layer(Reader &reader, const Shape &shape)  // members are read in the order of their declaration
        : norm(reader.table(shape.hidden)),
          i(reader.matrix(shape.hidden, shape.hidden)),
          f(reader.matrix(shape.hidden, shape.hidden)),
          g(reader.matrix(shape.hidden, shape.hidden)),
          lower_bound(reader.table(shape.hidden)),
          o_norm(reader.table(shape.hidden)),
          o(reader.matrix(shape.hidden, shape.hidden)),
          o_epsilon(reader.scale()),
          mlp_norm(reader.table(shape.hidden)),
          gate(reader.matrix(shape.intermediate, shape.hidden, 2)),
          down(reader.matrix(shape.hidden, shape.intermediate)),
          down_epsilon(reader.scale()),
          state(padded(shape.hidden)) {}
};

class Model {
  public:
    Model(const Shape &shape, const void *const *tensors)
        : shape_(shape),
          hidden_(padded(shape.hidden)),
          middle_(padded(shape.intermediate)),
          reader_{tensors},
          embedding_codes_(reader_.take<int8_t>()),
          embedding_scale_(reader_.take<int16_t>()),
          layers_(read_layers()),
          head_norm_(reader_.table(shape.hidden)),
          head_(reader_.matrix(shape.vocabulary, shape.hidden)),
          x_(hidden_),
          gated_(std::max(hidden_, middle_)),
          scratch_(std::max(hidden_, middle_)),
          sums_{Buffer<int32_t>(std::max(hidden_, 2 * middle_)), Buffer<int32_t>(hidden_),
                Buffer<int32_t>(hidden_)},
          head_sums_(padded(shape.vocabulary)),
          draws_(padded(shape.vocabulary)),
          codes_{Codes(std::max(hidden_, middle_)), Codes(hidden_), Codes(hidden_)},
          pool_(std::min<size_t>(shape.threads, most_threads()) - 1) {}

    void start() {
        for (Layer &layer : layers_) std::fill_n(layer.state.data(), hidden_, 0);
    }

    void state(int32_t *values) const {
        for (const Layer &layer : layers_) {
            values = std::copy_n(layer.state.data(), shape_.hidden, values);
        }
    }

    void restore(const int32_t *values) {
        for (Layer &layer : layers_) {
            std::copy_n(values, shape_.hidden, layer.state.data());
            values += shape_.hidden;
        }
    }

    void step(uint32_t token) {
        const int8_t *codes = embedding_codes_ + size_t{token} * shape_.hidden;
        const int32_t scale = embedding_scale_[token];
        for (size_t i = 0; i < shape_.hidden; ++i) {
            x_[i] = static_cast<int32_t>(round_shift(codes[i] * scale, ROW_SCALE_SHIFT));
        }
        for (Layer &layer : layers_) {
            recurrence(layer);
            glu(layer);
        }
    }

    Scale head() {
        const Normed normed(x_.data(), hidden_);
        const Scale square = normed.energy(head_norm_);
        normed.quantise(head_, codes_[0], scratch_);
        multiply({{&head_, &codes_[0], head_sums_.data()}});
        return sigma_of(codes_[0].peak, square, head_.constant);
    }

    const int32_t *head_sums() const { return head_sums_.data(); }

    uint32_t choose(const Scale *inverse_temperature, uint32_t noise) {
        const Scale sigma = head();
        int32_t *sums = head_sums_.data();
        if (inverse_temperature) {
            for (size_t i = 0; i < shape_.vocabulary; ++i) draws_[i] = noise = next_draw(noise);
            perturb(head_sums_.size(), draws_.data(), sums,
                    scaled_sums(sigma * *inverse_temperature, KEY_FRACTION, shape_.hidden_shift));
        } else if (shape_.hidden_shift) {
            for (size_t i = 0; i < shape_.vocabulary; ++i) sums[i] = shifted(sums[i], shape_.hidden_shift);
        }
        return first_of_largest(sums, shape_.vocabulary);
    }

  private:
    std::vector<Layer> read_layers() {
        std::vector<Layer> layers;
        layers.reserve(shape_.layers);
        for (uint32_t n = 0; n < shape_.layers; ++n) layers.emplace_back(reader_, shape_);
        return layers;
    }

    // How many threads the largest of the model's products keeps busy.
    size_t most_threads() const {
        const size_t rows = std::max({3 * hidden_, 2 * middle_, head_sums_.size()});
        return std::max<size_t>(1, rows * hidden_ / PART_TRITS);
    }

    template <size_t count>
    void multiply(const Product (&products)[count]) {
        int first[count + 1] = {};
        size_t together[count], trits = 0;
        for (size_t n = 0; n < count; ++n) {
            const Matrix &matrix = *products[n].matrix;
            // Two blocks at a time are faster than one.
            together[n] = 2 * (PART_TRITS / (2 * BLOCK * GROUP * matrix.groups) + 1);
            first[n + 1] = first[n] + (matrix.blocks + together[n] - 1) / together[n];
            trits += matrix.words.size() * GROUP;
        }
        pool_.run(first[count], trits >= 2 * PART_TRITS, [&](int part) {
            size_t n = 0;
            while (part >= first[n + 1]) ++n;
            const auto &[matrix, codes, sums] = products[n];
            const size_t block = (part - first[n]) * together[n];
            multiply_blocks(matrix->words.data() + block * matrix->groups * BLOCK,
                            std::min(together[n], matrix->blocks - block), matrix->groups,
                            codes->values.data(), -codes->sum, sums + block * BLOCK);
        });
    }

    void recurrence(Layer &layer) {
        const Normed normed(x_.data(), hidden_);
        const Scale square = normed.energy(layer.norm);
        normed.quantise(layer.i, codes_[0], scratch_);
        normed.quantise(layer.f, codes_[1], scratch_);
        normed.quantise(layer.g, codes_[2], scratch_);
        multiply({{&layer.i, &codes_[0], sums_[0].data()},
                  {&layer.f, &codes_[1], sums_[1].data()},
                  {&layer.g, &codes_[2], sums_[2].data()}});
        const int shift = shape_.hidden_shift;
        const Scale sums_energy = plain_energy(sums_[2].data(), hidden_, shift);
        mlgru(hidden_, sums_[0].data(), sums_[1].data(), sums_[2].data(), layer.lower_bound.data(),
              layer.state.data(), gated_.data(),
              preactivation(sigma_of(codes_[0].peak, square, layer.i.constant)),
              preactivation(sigma_of(codes_[1].peak, square, layer.f.constant)), shift);
        const Normed output(gated_.data(), hidden_);
        add(layer.o, output, output.energy(layer.o_norm) + sums_energy * epsilon(layer.o_epsilon),
            shift);
    }

    void glu(Layer &layer) {
        const Normed normed(x_.data(), hidden_);
        const Scale square = normed.energy(layer.mlp_norm);
        normed.quantise(layer.gate, codes_[0], scratch_);
        multiply({{&layer.gate, &codes_[0], sums_[0].data()}});
        const Scale sigma = sigma_of(codes_[0].peak, square, layer.gate.constant);
        ::glu(middle_, sums_[0].data(), sums_[0].data() + middle_, gated_.data(),
              preactivation(sigma), shape_.hidden_shift);
        const Normed output(gated_.data(), middle_);
        const Scale energy = plain_energy(gated_.data(), middle_, output.shift);
        add(layer.down, output, energy + epsilon(layer.down_epsilon) / (sigma * sigma),
            shape_.middle_shift);
    }

    Scaled preactivation(Scale sigma) const {
        return scaled_sums(sigma, PREACTIVATION_FRACTION, shape_.hidden_shift);
    }

    Scale epsilon(Scale constant) const {
        return {constant.mantissa, constant.exponent + shape_.epsilon_exponent};
    }

    // The residual stream takes what a matrix makes of a vector.
    void add(const Matrix &matrix, const Normed &normed, Scale square, int shift) {
        normed.quantise(matrix, codes_[0], scratch_);
        multiply({{&matrix, &codes_[0], sums_[0].data()}});
        accumulate(hidden_, sums_[0].data(), x_.data(),
                   scaled_sums(sigma_of(codes_[0].peak, square, matrix.constant),
                               shape_.residual_fraction, shift));
    }

    const Shape shape_;
    const size_t hidden_, middle_;  // padded
    Reader reader_;
    const int8_t *embedding_codes_;
    const int16_t *embedding_scale_;
    std::vector<Layer> layers_;
    Buffer<int16_t> head_norm_;
    Matrix head_;
    Buffer<int32_t> x_, gated_, scratch_, sums_[3], head_sums_;
    Buffer<uint32_t> draws_;
    Codes codes_[3];
    Pool pool_;
};

}  // namespace

extern "C" {

// Null where there is no memory or no thread to be had. The two tensors of the embedding are used
// where they are; all others are copied.
void *model_create(const Shape *shape, const void *const *tensors) {
    try {
        return new Model(*shape, tensors);
    } catch (const std::bad_alloc &) {
    } catch (const std::system_error &) {
    }
    return nullptr;
}

// Not for a model of another process, whose threads are not in a fork of it.
void model_delete(void *model) { delete static_cast<Model *>(model); }

void model_start(void *model) { static_cast<Model *>(model)->start(); }

// The hidden states, layer by layer.
void model_state(const void *model, int32_t *values) {
    static_cast<const Model *>(model)->state(values);
}

void model_restore(void *model, const int32_t *values) {
    static_cast<Model *>(model)->restore(values);
}

void model_step(void *model, uint32_t token) { static_cast<Model *>(model)->step(token); }

// Sums of the head and their scale.
void model_head(void *model, int32_t *sums, uint32_t count, Scale *sigma) {
    Model &the_model = *static_cast<Model *>(model);
    *sigma = the_model.head();
    std::copy_n(the_model.head_sums(), count, sums);
}

// The next token: greedy without a temperature.
uint32_t model_choose(void *model, const Scale *inverse_temperature, uint32_t noise) {
    return static_cast<Model *>(model)->choose(inverse_temperature, noise);
}

}
