// One block of a zoomed convolution's pass: reduce a tile into shared memory, convolve it there, write it enlarged.
//
// The reduction is what fills the convolution's input tile, the enlargement what empties its output tile, so a pass reads its
// input once (and a rim of one pixel around each tile) and writes its output once. A block owns cells (see axis.h) rather than
// pixels of the output: 7 x 15 cells from 8 x 16 pixels of the convolution, and whatever outputs lie in them.
#pragma once

#include "execute.h"
#include "zoomed.h"

namespace edgesmith {

/// Multiplies in fp32: a thread sums four pixels by four channels.
template <class Element, int ROWS, int COLS, int OUTPUTS>
struct Product {
    static_assert(sizeof(Element) == 4 && ROWS * COLS == 64 && OUTPUTS == 32 && THREADS == 128);
    static constexpr int PIXELS = 4, CHANNELS = 4, GROUPS = OUTPUTS / CHANNELS, STEP = THREADS / GROUPS;

    struct State {
        float sums[PIXELS][CHANNELS];
    };

    template <class Block>
    EDGESMITH_DEVICE static void clear(Block& block) {
        block.each([=](int, State& s) {
            for (int i = 0; i < PIXELS; ++i)
                for (int j = 0; j < CHANNELS; ++j) s.sums[i][j] = 0.0f;
        });
    }

    /// Adds the products of input channels `from` to `from` + `count`, which lie in `tile`.
    template <class Block>
    EDGESMITH_DEVICE static void add(Block& block, Element const* tile, int pitch, Pass const& pass, int n_block,
                                     Element const* weights, int from, int count) {
        int const channels = pass.channels;
        block.each([=](int thread, State& s) {
            int const group = thread % GROUPS, first = thread / GROUPS;
            for (int tap = 0; tap < 9; ++tap) {
                Element const* x[PIXELS];
                EDGESMITH_UNROLL
                for (int i = 0; i < PIXELS; ++i) {
                    int const pixel = first + i * STEP;
                    x[i] = tile + ((pixel / COLS + tap / 3) * (COLS + 2) + pixel % COLS + tap % 3) * pitch;
                }
                Element const* k = weights + ((size_t(n_block) * 9 + size_t(tap)) * size_t(channels) + size_t(from)) * 32;
                for (int c = 0; c < count; ++c) {
                    Vector<Element> const w = *reinterpret_cast<Vector<Element> const*>(k + c * 32 + group * CHANNELS);
                    EDGESMITH_UNROLL
                    for (int i = 0; i < PIXELS; ++i) {
                        float const value = x[i][c];
                        EDGESMITH_UNROLL
                        for (int j = 0; j < CHANNELS; ++j) s.sums[i][j] += value * w.v[j];
                    }
                }
            }
        });
    }

    /// Calls put(pixel, channel, value) for what each thread has summed, bias added.
    template <class Block, class Put>
    EDGESMITH_DEVICE static void store(Block& block, float const* bias, Put put) {
        block.each([=](int thread, State& s) {
            int const group = thread % GROUPS, first = thread / GROUPS;
            EDGESMITH_UNROLL
            for (int i = 0; i < PIXELS; ++i)
                EDGESMITH_UNROLL
                for (int j = 0; j < CHANNELS; ++j) {
                    int const channel = group * CHANNELS + j;
                    put(first + i * STEP, channel, s.sums[i][j] + bias[channel]);
                }
        });
    }
};

/// Multiplies in fp16 with fp32 sums on tensor cores: two by two warps, each half of the pixels by half of the outputs.
template <int ROWS, int COLS, int OUTPUTS>
struct Product<Half, ROWS, COLS, OUTPUTS> {
    static constexpr int M = ROWS * COLS / 32;  // a warp's tiles of 16 pixels
    static constexpr int N = OUTPUTS / 32;      // a warp's tiles of 16 outputs, each two of mma's 8
    static_assert(M * 32 == ROWS * COLS && N * 32 == OUTPUTS && THREADS == 128 && COLS % 8 == 0);

    struct Weights {
        FragmentB v[2];
    };
    struct State {
        Sums sums[M][2 * N];
        FragmentA pixels[M];
        Weights now[3][N], next[3][N];
    };

    template <class Block>
    EDGESMITH_DEVICE static void clear(Block& block) {
        block.each([=](int, State& s) {
            EDGESMITH_UNROLL
            for (int m = 0; m < M; ++m)
                EDGESMITH_UNROLL
                for (int n = 0; n < 2 * N; ++n)
                    EDGESMITH_UNROLL
                    for (int i = 0; i < 4; ++i) s.sums[m][n].v[i] = 0.0f;
        });
    }

    template <class Block>
    EDGESMITH_DEVICE static void add(Block& block, Half const* tile, int pitch, Pass const& pass, int n_block,
                                     Half const* weights, int from, int count) {
        // A step is one row of taps on 16 input channels. Its weights come straight from memory into registers, where they
        // are used M times; they are asked for one step before.
        size_t const a_group = size_t(parts(pass.channels, 16)) * 9 * 256;  // weights of 16 outputs
        Half const* const first = weights + size_t(n_block) * (OUTPUTS / 16) * a_group + size_t(from / 16) * 9 * 256;
        int const steps = parts(count, 16) * 3;
        auto const ask = [&](int step) {
            block.each([=](int thread, State& s) {
                Half const* at = first + size_t(thread / 32 % 2 * N) * a_group + size_t(step) * 3 * 256 + thread % 32 * 8;
                EDGESMITH_UNROLL
                for (int n = 0; n < N; ++n)
                    EDGESMITH_UNROLL
                    for (int x = 0; x < 3; ++x)
                        s.next[x][n] = *reinterpret_cast<Weights const*>(at + size_t(n) * a_group + x * 256);
            });
        };
        ask(0);
        for (int step = 0; step < steps; ++step) {
            block.each([=](int, State& s) {
                EDGESMITH_UNROLL
                for (int n = 0; n < N; ++n)
                    EDGESMITH_UNROLL
                    for (int x = 0; x < 3; ++x) s.now[x][n] = s.next[x][n];
            });
            if (step + 1 < steps) ask(step + 1);
            EDGESMITH_UNROLL
            for (int x = 0; x < 3; ++x) {
                EDGESMITH_UNROLL
                for (int m = 0; m < M; ++m)
                    block.gather(
                        [=](int thread, State&) {
                            // Lanes 0-7 point to eight pixels, 8-15 to the next eight, 16-31 to their other eight channels.
                            int const lane = thread % 32;
                            int const pixel = (thread / 64 * M + m) * 16 + lane % 16;
                            int const place = (pixel / COLS + step % 3) * (COLS + 2) + pixel % COLS + x;
                            return static_cast<void const*>(tile + place * pitch + step / 3 * 16 + lane / 16 * 8);
                        },
                        [=](State& s) -> FragmentA& { return s.pixels[m]; });
                EDGESMITH_UNROLL
                for (int m = 0; m < M; ++m)
                    EDGESMITH_UNROLL
                    for (int n = 0; n < 2 * N; ++n)
                        block.multiply([=](State& s) { return s.pixels[m]; },
                                       [=](State& s) { return s.now[x][n / 2].v[n % 2]; },
                                       [=](State& s) -> Sums& { return s.sums[m][n]; });
            }
        }
    }

    template <class Block, class Put>
    EDGESMITH_DEVICE static void store(Block& block, float const* bias, Put put) {
        block.each([=](int thread, State& s) {
            int const lane = thread % 32;
            EDGESMITH_UNROLL
            for (int m = 0; m < M; ++m)
                EDGESMITH_UNROLL
                for (int n = 0; n < 2 * N; ++n)
                    EDGESMITH_UNROLL
                    for (int i = 0; i < 4; ++i) {
                        int const pixel = (thread / 64 * M + m) * 16 + lane / 4 + i / 2 * 8;
                        int const channel = (thread / 32 % 2 * N * 2 + n) * 8 + lane % 4 * 2 + i % 2;
                        put(pixel, channel, s.sums[m][n].v[i] + bias[channel]);
                    }
        });
    }
};

/// One pixel of the convolution's input: the map reduced at (y, x), or the map itself; zeros around it.
template <bool REDUCE>
struct Source {
    bool inside;
    int at[4];  // the four neighbours, in elements
    float weight_y, weight_x;

    EDGESMITH_DEVICE Source(Pass const& pass, int y, int x) {
        inside = y >= 0 && y < pass.h() && x >= 0 && x < pass.w();
        weight_y = weight_x = 0.0f;
        at[0] = at[1] = at[2] = at[3] = 0;
        if (!inside) return;
        if (REDUCE) {
            Axis::Source const row = pass.down_y.at(y), column = pass.down_x.at(x);
            weight_y = row.weight;
            weight_x = column.weight;
            EDGESMITH_UNROLL
            for (int i = 0; i < 4; ++i)
                at[i] = (i / 2 ? row.high : row.low) * pass.in.row + (i % 2 ? column.high : column.low) * pass.in.pixel;
        } else {
            at[0] = y * pass.in.row + x * pass.in.pixel;
        }
    }
};

template <class Element>
EDGESMITH_BOTH Element bilinear(Element a, Element b, Element c, Element d, float weight_y, float weight_x) {
    float const upper = mixed(to_float(a), to_float(b), weight_x), lower = mixed(to_float(c), to_float(d), weight_x);
    return from_float<Element>(mixed(upper, lower, weight_y));
}

/// Fills the input tile of the block at (y0, x0) with `pass.chunk` channels from `from` on; beyond the last they are zeros.
template <class Element, int ROWS, int COLS, bool REDUCE, class Block, class State>
EDGESMITH_DEVICE void load_tile(Block& block, Pass const& pass, Element const* in, int y0, int x0, int from, Element* tile,
                                int pitch) {
    constexpr int V = Vector<Element>::size, WIDE = COLS + 2, PIXELS = (ROWS + 2) * WIDE;
    int const chunk = pass.chunk, channels = pass.channels;
    if (pass.in.vectors) {
        block.each([=, &pass](int thread, State&) {
            int const vectors = chunk / V;
            for (int i = thread; i < PIXELS * vectors; i += THREADS) {
                int const pixel = i / vectors, c = from + i % vectors * V;
                Source<REDUCE> const source(pass, y0 - 1 + pixel / WIDE, x0 - 1 + pixel % WIDE);
                Vector<Element> found;
                EDGESMITH_UNROLL
                for (int j = 0; j < V; ++j) found.v[j] = from_float<Element>(0.0f);
                if (source.inside && c < channels) {
                    auto const corner = [&](int k) {
                        return *reinterpret_cast<Vector<Element> const*>(in + source.at[k] + c);
                    };
                    found = corner(0);
                    if (REDUCE) {
                        Vector<Element> const b = corner(1), lower = corner(2), d = corner(3);
                        EDGESMITH_UNROLL
                        for (int j = 0; j < V; ++j)
                            found.v[j] = bilinear(found.v[j], b.v[j], lower.v[j], d.v[j], source.weight_y, source.weight_x);
                    }
                    // Of the padding of a pixel's last vector nothing is known, not even that it is a number.
                    EDGESMITH_UNROLL
                    for (int j = 0; j < V; ++j)
                        if (c + j >= channels) found.v[j] = from_float<Element>(0.0f);
                }
                *reinterpret_cast<Vector<Element>*>(tile + pixel * pitch + (c - from)) = found;
            }
        });
        return;
    }
    block.each([=, &pass](int thread, State&) {
        for (int i = thread; i < PIXELS * chunk; i += THREADS) {
            int const pixel = i % PIXELS, c = from + i / PIXELS;
            Source<REDUCE> const source(pass, y0 - 1 + pixel / WIDE, x0 - 1 + pixel % WIDE);
            Element found = from_float<Element>(0.0f);
            if (source.inside && c < channels) {
                Element const* const plane = in + int64_t(c) * pass.in.channel;
                found = plane[source.at[0]];
                if (REDUCE)
                    found = bilinear(found, plane[source.at[1]], plane[source.at[2]], plane[source.at[3]], source.weight_y,
                                     source.weight_x);
            }
            tile[pixel * pitch + (c - from)] = found;
        }
    });
}

template <class Element>
EDGESMITH_BOTH Element rectified(Element value) {
    float const f = to_float(value);
    return f > 0.0f ? value : from_float<Element>(f != f ? f : 0.0f);
}

/// Writes the block's cells: `results` (ROWS * COLS pixels, `pitch` apart) enlarged if ENLARGE, and ReLU.
///
/// A thread takes a cell and a vector of channels, so that each result is read once and not once for each output.
template <class Element, int ROWS, int COLS, int OUTPUTS, bool ENLARGE, class Block, class State>
EDGESMITH_DEVICE void write_tile(Block& block, Pass const& pass, Element* out, int y0, int x0, int from,
                                 Element const* results, int pitch, int const* rows, int const* cols) {
    constexpr int V = Vector<Element>::size, HIGH = ENLARGE ? ROWS - 1 : ROWS, WIDE = ENLARGE ? COLS - 1 : COLS;
    constexpr int VECTORS = OUTPUTS / V;
    block.each([=, &pass](int thread, State&) {
        bool const vectors = pass.out.vectors;
        for (int i = thread; i < HIGH * WIDE * VECTORS; i += THREADS) {
            // Neighbouring threads write neighbouring elements: channels where these are last, else pixels.
            int const cell = vectors ? i / VECTORS : i % (HIGH * WIDE), vector = vectors ? i % VECTORS : i / (HIGH * WIDE);
            int const row = cell / WIDE, col = cell % WIDE, c = from + vector * V;
            if (y0 + row >= pass.h() || x0 + col >= pass.w() || c >= pass.outputs) continue;
            auto const result = [&](int y, int x) {
                return *reinterpret_cast<Vector<Element> const*>(results + (y * COLS + x) * pitch + vector * V);
            };
            auto const write = [&](int y, int x, Vector<Element> const& value) {
                Element* const at = out + int64_t(y) * pass.out.row + int64_t(x) * pass.out.pixel;
                if (vectors) {
                    *reinterpret_cast<Vector<Element>*>(at + c) = value;
                } else {
                    EDGESMITH_UNROLL
                    for (int j = 0; j < V; ++j)
                        if (c + j < pass.outputs) at[int64_t(c + j) * pass.out.channel] = value.v[j];
                }
            };
            Vector<Element> value = result(row, col);
            if (!ENLARGE) {
                EDGESMITH_UNROLL
                for (int j = 0; j < V; ++j) value.v[j] = rectified(value.v[j]);
                write(y0 + row, x0 + col, value);
                continue;
            }
            // The last row's neighbour is itself, as everywhere at the rim of a resize.
            int const below = smaller(row + 1, pass.h() - 1 - y0), right = smaller(col + 1, pass.w() - 1 - x0);
            Vector<Element> const a = value, b = result(row, right), d = result(below, col), e = result(below, right);
            for (int y = rows[row]; y < rows[row + 1]; ++y) {
                float const weight_y = pass.up_y.at(y).weight;
                for (int x = cols[col]; x < cols[col + 1]; ++x) {
                    float const weight_x = pass.up_x.at(x).weight;
                    EDGESMITH_UNROLL
                    for (int j = 0; j < V; ++j)
                        value.v[j] = rectified(bilinear(a.v[j], b.v[j], d.v[j], e.v[j], weight_y, weight_x));
                    write(y, x, value);
                }
            }
        }
    });
}

/// The work of block `index` of a pass, for image `image`. `weights` and `bias` are a layer's share of the packed block.
template <class Element, int ROWS, int COLS, int OUTPUTS, bool REDUCE, bool ENLARGE, class Block>
EDGESMITH_DEVICE void zoomed_tile(Block& block, Pass const& pass, int index, int image, Element const* in,
                                  Element const* weights, float const* bias, Element* out, char* shared) {
    using Multiply = Product<Element, ROWS, COLS, OUTPUTS>;
    using State = typename Multiply::State;
    constexpr bool HALF = sizeof(Element) == 2;
    // Blocks of the same tile follow one another: the second finds the first one's pixels in the cache.
    int const n_block = index % pass.blocks, tile_x = index / pass.blocks % pass.tiles_x;
    int const tile_y = index / pass.blocks / pass.tiles_x;
    int const y0 = tile_y * owned(ROWS, ENLARGE), x0 = tile_x * owned(COLS, ENLARGE);
    int* const rows = reinterpret_cast<int*>(shared);
    int* const cols = rows + ROWS + 1;
    Element* const tile = reinterpret_cast<Element*>(shared + rounded_up((ROWS + COLS + 2) * 4, 16));
    int const pitch = pass.chunk + channel_pad(HALF);
    in += image * pass.in.image;
    out += image * pass.out.image;

    if (ENLARGE)
        block.each([=, &pass](int thread, State&) {
            if (thread <= ROWS) rows[thread] = pass.up_y.first(y0 + thread);
            if (thread <= COLS) cols[thread] = pass.up_x.first(x0 + thread);
        });
    Multiply::clear(block);
    for (int from = 0; from < pass.channels; from += pass.chunk) {
        if (from > 0) block.sync();  // the tile's last readers are done
        load_tile<Element, ROWS, COLS, REDUCE, Block, State>(block, pass, in, y0, x0, from, tile, pitch);
        block.sync();
        Multiply::add(block, tile, pitch, pass, n_block, weights, from, smaller(pass.chunk, pass.channels - from));
    }
    block.sync();
    constexpr int RESULTS = OUTPUTS + channel_pad(HALF);
    Multiply::store(block, bias + n_block * OUTPUTS, [=](int pixel, int channel, float value) {
        tile[pixel * RESULTS + channel] = from_float<Element>(value);
    });
    block.sync();
    write_tile<Element, ROWS, COLS, OUTPUTS, ENLARGE, Block, State>(block, pass, out, y0, x0, n_block * OUTPUTS, tile, RESULTS,
                                                                    rows, cols);
    block.sync();
}

/// A kernel as a type: what `with_variant` hands to those who launch one.
template <class ELEMENT, int ROWS_, int COLS_, int OUTPUTS_, bool REDUCE_, bool ENLARGE_>
struct Variant {
    using Element = ELEMENT;
    using State = typename Product<ELEMENT, ROWS_, COLS_, OUTPUTS_>::State;
    static constexpr int ROWS = ROWS_, COLS = COLS_, OUTPUTS = OUTPUTS_;
    static constexpr bool REDUCE = REDUCE_, ENLARGE = ENLARGE_;
};

template <class Element, int ROWS, int COLS, int OUTPUTS, class F>
auto with_kind(Pass const& pass, F f) {
    if (pass.reduce && pass.enlarge) return f(Variant<Element, ROWS, COLS, OUTPUTS, true, true>{});
    if (pass.reduce) return f(Variant<Element, ROWS, COLS, OUTPUTS, true, false>{});
    if (pass.enlarge) return f(Variant<Element, ROWS, COLS, OUTPUTS, false, true>{});
    return f(Variant<Element, ROWS, COLS, OUTPUTS, false, false>{});
}

/// f(Variant) for the kernel that `pass` was planned for.
template <class F>
auto with_variant(Pass const& pass, bool half, F f) {
    if (!half) return with_kind<float, 8, 8, 32>(pass, f);
    static_assert(SHAPES_HALF[0].cols == 16 && SHAPES_HALF[1].cols == 8 && SHAPES_HALF[1].outputs == 64);
    switch (pass.shape) {
        case 0: return with_kind<Half, 8, 16, 64>(pass, f);
        case 1: return with_kind<Half, 8, 8, 64>(pass, f);
        case 2: return with_kind<Half, 8, 16, 32>(pass, f);
        default: return with_kind<Half, 8, 8, 32>(pass, f);
    }
}

}  // namespace edgesmith
