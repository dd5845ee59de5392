// A zoomed convolution as data: what it computes, how its weights lie in memory, and how it is launched. No TensorRT, no CUDA.
//
// It runs as one or two *passes*, each one kernel that reads a map once and writes a map once:
//
//     conv,    stride 1    reduce - convolve - enlarge - ReLU
//     conv,    stride 2    reduce - convolve - ReLU
//     conv x2, stride 1    reduce - convolve - ReLU, then convolve - enlarge - ReLU
//     conv x2, stride 2    reduce - convolve - ReLU, then convolve - ReLU
//
// Nothing of full size lies between input and output. The x2 form leaves its inner map, a quarter of the pixels, in memory
// (in the second-level cache, mostly). Keeping that in shared memory too would mean that each block has all its channels, and
// computes the two pixels that neighbouring blocks need as well: half as many products again, to save the cheapest traffic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "axis.h"

namespace edgesmith {

/// The operator, whatever the map's size.
struct Zoomed {
    int32_t channels, outputs;
    int32_t layers;   // 1, or 2: the x2 form
    int32_t stride;   // 1, or 2: without the enlargement
    int32_t aligned;  // coordinates of both resizes: corners aligned, or half-pixel
    int32_t half;     // fp16 maps and weights, or fp32

    bool valid() const {
        constexpr int32_t MOST = 1 << 14;
        return channels >= 1 && channels <= MOST && outputs >= 1 && outputs <= MOST && (layers == 1 || layers == 2) &&
               (stride == 1 || stride == 2) && (aligned & ~1) == 0 && (half & ~1) == 0;
    }
    int inputs_of(int layer) const { return layer == 0 ? channels : outputs; }
    int element_size() const { return half ? 2 : 4; }
};

/// Elements of a map in memory: what lies between neighbours, in elements.
struct Strides {
    int channel, pixel, row;
    int64_t image;
    bool vectors;  // channels are neighbours, and each pixel begins at a multiple of 16 bytes
};

/// Planes (N, C, H, W), TensorRT's kLINEAR.
inline Strides planar(int channels, int h, int w) { return {h * w, 1, w, int64_t(channels) * h * w, false}; }

/// Channels last, each pixel `pitch` elements: kHWC has the channels themselves, kHWC8 those rounded up to a multiple of 8.
inline Strides channels_last(int pitch, int h, int w, int element_size) {
    return {1, pitch, w * pitch, int64_t(pitch) * h * w, pitch * element_size % 16 == 0};
}

/// What one block computes: rows x cols pixels of the convolution, `outputs` channels.
struct Shape {
    int rows, cols, outputs;
};
constexpr Shape SHAPES_HALF[] = {{8, 16, 64}, {8, 8, 64}, {8, 16, 32}, {8, 8, 32}};
constexpr Shape SHAPES_FLOAT[] = {{8, 8, 32}};
constexpr int THREADS = 128;
constexpr int SHARED_BYTES = 48 << 10;  // what every architecture gives without being asked

/// Channels that a product takes at once, and what follows each pixel in shared memory so that no two lanes meet in a bank.
EDGESMITH_BOTH constexpr int channel_step(bool half) { return half ? 16 : 4; }
EDGESMITH_BOTH constexpr int channel_pad(bool half) { return half ? 8 : 4; }

/// One kernel's work.
struct Pass {
    int channels, outputs;
    Axis down_y, down_x;  // input -> the convolution's map
    Axis up_y, up_x;      // the convolution's map -> output
    bool reduce, enlarge;
    Strides in, out;
    int chunk;  // input channels that lie in shared memory at a time
    int shape;  // index in SHAPES_HALF or SHAPES_FLOAT
    int tiles_y, tiles_x, blocks, images;
    int shared_bytes;

    EDGESMITH_BOTH int h() const { return down_y.out; }
    EDGESMITH_BOTH int w() const { return down_x.out; }
};

/// Pixels of the convolution that a block owns: with an enlargement its last row and column are its neighbour's first.
EDGESMITH_BOTH int owned(int size, bool enlarge) { return enlarge ? size - 1 : size; }

struct Plan {
    int count;
    Pass pass[2];
    size_t workspace_bytes;  // for the inner map of the x2 form
};

inline int tile_pixels(Shape s) { return (s.rows + 2) * (s.cols + 2); }

/// Shared memory of a block: run tables, then the input tile, whose place the results take when it has been read.
inline int shared_bytes(Shape s, int chunk, bool half) {
    int const size = half ? 2 : 4, pad = channel_pad(half);
    int const tables = rounded_up((s.rows + s.cols + 2) * 4, 16);
    return tables + larger(tile_pixels(s) * (chunk + pad), s.rows * s.cols * (s.outputs + pad)) * size;
}

/// Input channels that lie in shared memory at a time: all, or equal parts of them.
inline int chunk_of(Shape s, int channels, bool half) {
    int chunk = 0, chunks = 1;
    do {
        chunk = rounded_up(parts(channels, chunks++), channel_step(half));
    } while (shared_bytes(s, chunk, half) > SHARED_BYTES);
    return chunk;
}

/// Fills in how `pass` is launched on a device of `processors` multiprocessors; `forced` names a shape.
inline void choose_launch(Pass& pass, bool half, int processors, int forced) {
    Shape const* const shapes = half ? SHAPES_HALF : SHAPES_FLOAT;
    auto const blocks_of = [&](Shape s) {
        return parts(pass.h(), owned(s.rows, pass.enlarge)) * parts(pass.w(), owned(s.cols, pass.enlarge)) *
               parts(pass.outputs, s.outputs) * pass.images;
    };
    int chosen = 0;
    if (half) {
        // 32 outputs a block where 64 would compute more for nothing; the smaller tile where the larger leaves processors idle.
        chosen = rounded_up(pass.outputs, 32) < rounded_up(pass.outputs, 64) ? 2 : 0;
        if (blocks_of(shapes[chosen]) < 2 * processors) ++chosen;
    }
    pass.shape = forced >= 0 ? forced : chosen;
    Shape const s = shapes[pass.shape];
    pass.chunk = chunk_of(s, pass.channels, half);
    pass.tiles_y = parts(pass.h(), owned(s.rows, pass.enlarge));
    pass.tiles_x = parts(pass.w(), owned(s.cols, pass.enlarge));
    pass.blocks = parts(pass.outputs, s.outputs);
    pass.shared_bytes = shared_bytes(s, pass.chunk, half);
}

/// How `z` runs on `images` maps of h x w: in and out lie as `in` and `out` say.
inline Plan plan(Zoomed const& z, int images, int h, int w, Strides in, Strides out, int processors, int forced = -1) {
    bool const aligned = z.aligned != 0, half = z.half != 0, enlarge = z.stride == 1;
    int const low_h = halved(h), low_w = halved(w);
    int const pitch = rounded_up(z.outputs, 16 / z.element_size());
    Strides const inner = channels_last(pitch, low_h, low_w, z.element_size());
    Plan made{z.layers, {}, 0};
    for (int i = 0; i < z.layers; ++i) {
        bool const first = i == 0, last = i == z.layers - 1;
        Pass& p = made.pass[i];
        p.channels = z.inputs_of(i);
        p.outputs = z.outputs;
        p.down_y = axis(first ? h : low_h, low_h, aligned);
        p.down_x = axis(first ? w : low_w, low_w, aligned);
        p.up_y = axis(low_h, last && enlarge ? h : low_h, aligned);
        p.up_x = axis(low_w, last && enlarge ? w : low_w, aligned);
        p.reduce = first;
        p.enlarge = last && enlarge;
        p.in = first ? in : inner;
        p.out = last ? out : inner;
        p.images = images;
        choose_launch(p, half, processors, forced);
    }
    if (z.layers == 2) made.workspace_bytes = size_t(inner.image) * size_t(images) * size_t(z.element_size());
    return made;
}

// Weights. ---------------------------------------------------------------------------------------------------------------

constexpr int OUTPUTS_PADDED = 64;  // a multiple of every shape's outputs

/// Where weight (output, input, tap) of a layer lies among its packed ones, in elements; tap = 3 * row + column.
///
/// fp16: in the order in which the lanes of a warp take their share of mma's second operand, so that a lane loads its numbers
/// for 16 outputs and 16 inputs of a tap as 16 bytes, and a warp 512 bytes in one piece. fp32: 32 outputs side by side.
inline size_t packed_place(bool half, int channels, int output, int input, int tap) {
    if (!half) return ((size_t(output / 32) * 9 + size_t(tap)) * size_t(channels) + size_t(input)) * 32 + size_t(output % 32);
    size_t const group = (size_t(output / 16) * size_t(parts(channels, 16)) + size_t(input / 16)) * 9 + size_t(tap);
    int const n = output % 16, k = input % 16;
    int const lane = n % 8 * 4 + k % 8 / 2;
    return group * 256 + size_t(lane * 8 + n / 8 * 4 + k / 8 * 2 + k % 2);
}

inline size_t packed_count(bool half, int channels, int outputs) {
    int const inputs = half ? rounded_up(channels, 16) : channels;
    return size_t(rounded_up(outputs, OUTPUTS_PADDED)) * size_t(inputs) * 9;
}

/// A layer's share of the packed block: weights, then fp32 biases, both padded with zeros to OUTPUTS_PADDED outputs.
struct LayerBytes {
    size_t weights, biases;
    size_t total() const { return weights + biases; }
};

inline LayerBytes layer_bytes(Zoomed const& z, int layer) {
    size_t const weights = packed_count(z.half != 0, z.inputs_of(layer), z.outputs) * size_t(z.element_size());
    return {weights, size_t(rounded_up(z.outputs, OUTPUTS_PADDED)) * 4};
}

inline size_t packed_bytes(Zoomed const& z) {
    size_t sum = 0;
    for (int i = 0; i < z.layers; ++i) sum += layer_bytes(z, i).total();
    return sum;
}

/// Weights (outputs, inputs, 3, 3) and biases (outputs) of each layer, as a device takes them.
inline std::vector<uint8_t> packed(Zoomed const& z, float const* const* weights, float const* const* biases) {
    std::vector<uint8_t> bytes(packed_bytes(z), 0);
    uint8_t* at = bytes.data();
    for (int i = 0; i < z.layers; ++i) {
        int const inputs = z.inputs_of(i);
        for (int n = 0; n < z.outputs; ++n)
            for (int c = 0; c < inputs; ++c)
                for (int tap = 0; tap < 9; ++tap) {
                    float const value = weights[i][(size_t(n) * size_t(inputs) + size_t(c)) * 9 + size_t(tap)];
                    size_t const place = packed_place(z.half != 0, inputs, n, c, tap);
                    if (z.half) {
                        Half const rounded = from_float<Half>(value);
                        std::memcpy(at + place * 2, &rounded, 2);
                    } else {
                        std::memcpy(at + place * 4, &value, 4);
                    }
                }
        std::memcpy(at + layer_bytes(z, i).weights, biases[i], size_t(z.outputs) * 4);
        at += layer_bytes(z, i).total();
    }
    return bytes;
}

// What an engine's plan keeps of the operator: this header, then the packed block. --------------------------------------------

struct SerialisedHeader {
    char magic[4];
    uint32_t version;
    Zoomed zoomed;
    uint64_t bytes;
};
constexpr uint32_t ZOOMED_VERSION = 1;
constexpr char ZOOMED_MAGIC[4] = {'E', 'S', 'Z', 'C'};

inline std::vector<uint8_t> serialised(Zoomed const& z, std::vector<uint8_t> const& block) {
    SerialisedHeader header{};
    std::memcpy(header.magic, ZOOMED_MAGIC, 4);
    header.version = ZOOMED_VERSION;
    header.zoomed = z;
    header.bytes = block.size();
    std::vector<uint8_t> bytes(sizeof header + block.size());
    std::memcpy(bytes.data(), &header, sizeof header);
    if (!block.empty()) std::memcpy(bytes.data() + sizeof header, block.data(), block.size());
    return bytes;
}

struct Deserialised {
    Zoomed zoomed;
    std::vector<uint8_t> block;
};

/// Nothing where the bytes are not what `serialised` wrote, in this version.
inline std::optional<Deserialised> deserialised(void const* bytes, size_t count) {
    SerialisedHeader header;
    if (bytes == nullptr || count < sizeof header) return std::nullopt;
    std::memcpy(&header, bytes, sizeof header);
    bool const ours = std::memcmp(header.magic, ZOOMED_MAGIC, 4) == 0 && header.version == ZOOMED_VERSION;
    if (!ours || !header.zoomed.valid() || header.bytes != packed_bytes(header.zoomed)) return std::nullopt;
    if (count != sizeof header + header.bytes) return std::nullopt;
    auto const* const first = static_cast<uint8_t const*>(bytes) + sizeof header;
    return Deserialised{header.zoomed, std::vector<uint8_t>(first, first + header.bytes)};
}

}  // namespace edgesmith
