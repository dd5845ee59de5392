// How a kernel's source runs: by nvcc as a block of threads, by g++ as an emulation of one.
//
// A kernel is written as steps between barriers. `each(f)` is what a thread does by itself, `multiply` and `gather` what the
// 32 lanes of a warp do together, `sync` the barrier of the block. What a thread keeps in registers is its `State`.
//
// The emulation runs everything up to a barrier for one warp, then for the next, the last warp first: a barrier that is missing,
// or work that two threads share by mistake, gives wrong numbers there, and not only on some device under some load.
#pragma once

#include "numbers.h"

#if !defined(__CUDACC__)
#include <functional>
#include <vector>
#endif

namespace edgesmith {

/// Operands and sums of one m16n8k16 product, one lane's share (PTX ISA, mma.m16n8k16 with f16).
struct FragmentA {
    uint32_t v[4];
};
struct FragmentB {
    uint32_t v[2];
};
struct Sums {
    float v[4];
};

#if defined(__CUDACC__)

template <class State, int THREADS>
struct Block {
    State state;

    template <class F>
    __device__ __forceinline__ void each(F f) {
        f(int(threadIdx.x), state);
    }

    __device__ __forceinline__ void sync() { __syncthreads(); }

    /// Each lane gives the address of eight halves; together four 8x8 matrices, of which each lane gets its four pairs.
    template <class Address, class Target>
    __device__ __forceinline__ void gather(Address address, Target target) {
        uint32_t const at = uint32_t(__cvta_generic_to_shared(address(int(threadIdx.x), state)));
        FragmentA& a = target(state);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(a.v[0]), "=r"(a.v[1]), "=r"(a.v[2]), "=r"(a.v[3])
                     : "r"(at)
                     : "memory");
    }

    /// sums += a (16 x 16) @ b (16 x 8)
    template <class A, class B, class S>
    __device__ __forceinline__ void multiply(A a_of, B b_of, S sums_of) {
        FragmentA const a = a_of(state);
        FragmentB const b = b_of(state);
        float* s = sums_of(state).v;
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
                     : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[0]), "r"(b.v[1]));
    }
};

#else

template <class State, int THREADS>
class Block {
public:
    template <class F>
    void each(F f) {
        waiting_.push_back([this, f](int warp) {
            for (int lane = 0; lane < WARP && warp * WARP + lane < THREADS; ++lane)
                f(warp * WARP + lane, states_[std::size_t(warp * WARP + lane)]);
        });
    }

    void sync() {
        for (int warp = parts(THREADS, WARP) - 1; warp >= 0; --warp)
            for (auto const& step : waiting_) step(warp);
        waiting_.clear();
    }

    template <class Address, class Target>
    void gather(Address address, Target target) {
        waiting_.push_back([this, address, target](int warp) {
            for (int lane = 0; lane < WARP; ++lane)
                for (int matrix = 0; matrix < 4; ++matrix) {
                    int const giver = warp * WARP + matrix * 8 + lane / 4;
                    void const* row = address(giver, states_[std::size_t(giver)]);
                    FragmentA& a = target(states_[std::size_t(warp * WARP + lane)]);
                    std::memcpy(&a.v[matrix], static_cast<char const*>(row) + 4 * (lane % 4), 4);
                }
        });
    }

    template <class A, class B, class S>
    void multiply(A a_of, B b_of, S sums_of) {
        waiting_.push_back([this, a_of, b_of, sums_of](int warp) {
            float a[16][16], b[16][8];
            for (int lane = 0; lane < WARP; ++lane) {
                State& state = states_[std::size_t(warp * WARP + lane)];
                FragmentA const fa = a_of(state);
                FragmentB const fb = b_of(state);
                int const row = lane / 4, column = lane % 4 * 2;
                for (int half = 0; half < 2; ++half) {
                    for (int part = 0; part < 4; ++part)
                        a[row + part % 2 * 8][column + part / 2 * 8 + half] = half_of(fa.v[part], half);
                    for (int part = 0; part < 2; ++part) b[column + part * 8 + half][row] = half_of(fb.v[part], half);
                }
            }
            for (int lane = 0; lane < WARP; ++lane) {
                Sums& sums = sums_of(states_[std::size_t(warp * WARP + lane)]);
                for (int part = 0; part < 4; ++part)
                    for (int k = 0; k < 16; ++k) sums.v[part] += a[lane / 4 + part / 2 * 8][k] * b[k][lane % 4 * 2 + part % 2];
            }
        });
    }

private:
    static constexpr int WARP = 32;

    static float half_of(uint32_t pair, int which) { return to_float(Half{uint16_t(pair >> (16 * which))}); }

    std::vector<State> states_ = std::vector<State>(THREADS);
    std::vector<std::function<void(int)>> waiting_;
};

#endif

}  // namespace edgesmith
