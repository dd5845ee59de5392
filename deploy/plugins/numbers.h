// Numbers that host and device write alike: half precision as bits, 16-byte vectors, and arithmetic that compilers leave as it is.
//
// EDGESMITH_BOTH marks what both run, EDGESMITH_DEVICE what belongs to a kernel. g++ compiles either for the host, where
// execute.h emulates the launch; nvcc compiles the latter for the device alone.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#define EDGESMITH_BOTH __host__ __device__ __forceinline__
#define EDGESMITH_DEVICE __device__ __forceinline__
#define EDGESMITH_UNROLL _Pragma("unroll")
#else
#define EDGESMITH_BOTH inline
#define EDGESMITH_DEVICE inline
#define EDGESMITH_UNROLL
#endif

namespace edgesmith {

/// IEEE half precision as it lies in memory.
struct Half {
    uint16_t bits;
};

EDGESMITH_BOTH float to_float(float value) { return value; }

EDGESMITH_BOTH float to_float(Half value) {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(value.bits));
#else
    uint32_t const sign = uint32_t(value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
    float scaled;
    // Exponent and mantissa moved to their places; the product puts the bias right, for subnormal numbers too.
    uint32_t const moved = magnitude << 13;
    std::memcpy(&scaled, &moved, 4);
    scaled *= 5.192296858534828e33f;  // 2^112
    uint32_t bits;
    std::memcpy(&bits, &scaled, 4);
    if (magnitude >= 0x7c00u) bits |= 0x7f800000u;  // infinity and NaN
    bits |= sign;
    std::memcpy(&scaled, &bits, 4);
    return scaled;
#endif
}

/// Rounded to nearest, ties to even.
template <class Element>
EDGESMITH_BOTH Element from_float(float value);

template <>
EDGESMITH_BOTH float from_float<float>(float value) {
    return value;
}

template <>
EDGESMITH_BOTH Half from_float<Half>(float value) {
#if defined(__CUDA_ARCH__)
    return Half{__half_as_ushort(__float2half_rn(value))};
#else
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint16_t const sign = uint16_t((bits >> 16) & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits >= 0x47800000u)  // 65536 and more, infinity, NaN
        return Half{uint16_t(sign | (bits > 0x7f800000u ? 0x7e00u : 0x7c00u))};
    if (bits < 0x38800000u) {  // below the smallest normal half: adding 0.5 lets the adder round
        float small;
        std::memcpy(&small, &bits, 4);
        small += 0.5f;
        std::memcpy(&bits, &small, 4);
        return Half{uint16_t(sign | (bits - 0x3f000000u))};
    }
    uint32_t const odd = (bits >> 13) & 1u;
    return Half{uint16_t(sign | ((bits - 0x38000000u + 0xfffu + odd) >> 13))};
#endif
}

/// 16 bytes, what one memory instruction moves.
template <class Element>
struct alignas(16) Vector {
    static constexpr int size = 16 / int(sizeof(Element));
    Element v[size];
};

/// a * b, and a * b + c rounded once, whatever the compiler would rather do: coordinates are torch's to the last bit.
EDGESMITH_BOTH float product(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return a * b;  // the host compiles with -ffp-contract=off
#endif
}

EDGESMITH_BOTH float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(a, b, c);
#else
    return std::fma(a, b, c);
#endif
}

EDGESMITH_BOTH int smaller(int a, int b) { return a < b ? a : b; }
EDGESMITH_BOTH int larger(int a, int b) { return a > b ? a : b; }
EDGESMITH_BOTH int parts(int whole, int part) { return (whole + part - 1) / part; }
EDGESMITH_BOTH int rounded_up(int value, int multiple) { return parts(value, multiple) * multiple; }

}  // namespace edgesmith
