// The plugins on a processor, for ctypes: the kernels' own source in an emulated launch, and the CPU form of EnlargeArgmax.
//
//     g++ -std=c++17 -O3 -march=native -ffp-contract=off -fPIC -shared -pthread -DEDGESMITH_SOURCE_DIGEST='"..."' twin.cpp
//
// The emulation proves tiling, packing and arithmetic; it is not meant to be fast.
#include <limits>

#include "enlarge_argmax.h"
#include "enlarge_cpu.h"
#include "zoomed_tile.h"

using namespace edgesmith;

namespace {

constexpr int REFUSED = 1;

/// Shared memory full of NaN: what a block reads before it wrote shows.
std::vector<float> poisoned(int bytes) {
    return std::vector<float>(std::size_t(parts(bytes, 16)) * 4, std::numeric_limits<float>::quiet_NaN());
}

void run_pass(Pass const& pass, bool half, void const* in, uint8_t const* layer, size_t weight_bytes, void* out) {
    with_variant(pass, half, [&](auto variant) {
        using V = decltype(variant);
        using Element = typename V::Element;
        Block<typename V::State, THREADS> block;
        for (int image = 0; image < pass.images; ++image)
            for (int index = 0; index < pass.tiles_y * pass.tiles_x * pass.blocks; ++index) {
                std::vector<float> shared = poisoned(pass.shared_bytes);
                zoomed_tile<Element, V::ROWS, V::COLS, V::OUTPUTS, V::REDUCE, V::ENLARGE>(
                    block, pass, index, image, static_cast<Element const*>(in), reinterpret_cast<Element const*>(layer),
                    reinterpret_cast<float const*>(layer + weight_bytes), static_cast<Element*>(out),
                    reinterpret_cast<char*>(shared.data()));
            }
    });
}

Strides strides_of(int pitch, int channels, int h, int w, int element_size) {
    return pitch == 0 ? planar(channels, h, w) : channels_last(pitch, h, w, element_size);
}

struct Nothing {};

template <class Element, class Label>
void run_enlarge(Enlargement const& work, void const* logits, void* labels) {
    Block<Nothing, ENLARGE_THREADS> block;
    int const tiles = parts(work.y.in, ENLARGE_ROWS) * parts(work.x.in, ENLARGE_COLS);
    for (int image = 0; image < work.images; ++image)
        for (int index = 0; index < tiles; ++index) {
            std::vector<float> shared = poisoned(enlarge_shared_bytes(work.classes));
            enlarge_tile(block, work, index, image, static_cast<Element const*>(logits), static_cast<Label*>(labels),
                         reinterpret_cast<char*>(shared.data()));
        }
}

}  // namespace

extern "C" {

char const* edgesmith_source_digest() { return EDGESMITH_SOURCE_DIGEST; }

/// A zoomed convolution on `images` maps of h x w. A pitch of 0 means planes, else channels last with that pitch.
/// `forced_shape` is -1 or an index of SHAPES_HALF or SHAPES_FLOAT. Returns 0, or REFUSED for an impossible operator.
int edgesmith_zoomed(Zoomed const* z, int images, int h, int w, int in_pitch, int out_pitch, int forced_shape, void const* in,
                     float const* const* weights, float const* const* biases, void* out) {
    if (!z->valid() || images < 1 || h < 1 || w < 1) return REFUSED;
    bool const enlarge = z->stride == 1, half = z->half != 0;
    int const out_h = enlarge ? h : halved(h), out_w = enlarge ? w : halved(w);
    Plan const made = plan(*z, images, h, w, strides_of(in_pitch, z->channels, h, w, z->element_size()),
                           strides_of(out_pitch, z->outputs, out_h, out_w, z->element_size()), 16, forced_shape);
    // Through the serialised form, so that it is proven as well.
    std::vector<uint8_t> const bytes = serialised(*z, packed(*z, weights, biases));
    auto const kept = deserialised(bytes.data(), bytes.size());
    if (!kept) return REFUSED;
    std::vector<Vector<float>> block(kept->block.size() / 16 + 1);  // aligned as device memory is
    std::memcpy(block.data(), kept->block.data(), kept->block.size());
    std::vector<Vector<float>> inner(made.workspace_bytes / 16 + 1);
    uint8_t const* layer = reinterpret_cast<uint8_t const*>(block.data());
    for (int i = 0; i < made.count; ++i) {
        LayerBytes const size = layer_bytes(*z, i);
        void const* const from = i == 0 ? in : inner.data();
        run_pass(made.pass[i], half, from, layer, size.weights, i == made.count - 1 ? out : inner.data());
        layer += size.total();
    }
    return 0;
}

/// Whether `deserialised` takes these bytes.
int edgesmith_zoomed_reads(void const* bytes, size_t count) { return deserialised(bytes, count) ? 1 : 0; }

/// Writes the serialised operator, or only says how long it is where `bytes` is null.
size_t edgesmith_zoomed_serialised(Zoomed const* z, float const* const* weights, float const* const* biases, void* bytes) {
    if (!z->valid()) return 0;
    if (bytes != nullptr) {
        std::vector<uint8_t> const made = serialised(*z, packed(*z, weights, biases));
        std::memcpy(bytes, made.data(), made.size());
    }
    return sizeof(SerialisedHeader) + packed_bytes(*z);
}

/// Shared memory of a block of that shape with all `channels` in it, as far as they fit.
int edgesmith_shared_bytes(int rows, int cols, int outputs, int channels, int half) {
    Shape const s{rows, cols, outputs};
    return shared_bytes(s, chunk_of(s, channels, half != 0), half != 0);
}

/// Where each output of an axis lies: its first input and the weight of the second.
int edgesmith_axis(int in, int out, int aligned, int* low, float* weight, int* first) {
    if (in < 1 || out < 1) return REFUSED;
    Axis const a = axis(in, out, aligned != 0);
    for (int i = 0; i < out; ++i) {
        low[i] = a.at(i).low;
        weight[i] = a.at(i).weight;
    }
    for (int i = 0; i <= in; ++i) first[i] = a.first(i);
    return 0;
}

/// The kernel of EnlargeArgmax: fp32 or fp16 logits, labels as bytes or fp16. A pitch of 0 means planes.
int edgesmith_enlarge(int images, int classes, int h, int w, int out_h, int out_w, int aligned, int pitch, int half,
                      int half_labels, void const* logits, void* labels) {
    if (images < 1 || classes < 1 || classes > MOST_CLASSES || h < 1 || w < 1 || out_h < 1 || out_w < 1) return REFUSED;
    Strides const s = strides_of(pitch, classes, h, w, half ? 2 : 4);
    Enlargement const work{classes,   images,  axis(h, out_h, aligned != 0), axis(w, out_w, aligned != 0),
                           s.channel, s.pixel, s.row,                        s.image};
    if (half)
        half_labels ? run_enlarge<Half, Half>(work, logits, labels) : run_enlarge<Half, uint8_t>(work, logits, labels);
    else
        half_labels ? run_enlarge<float, Half>(work, logits, labels) : run_enlarge<float, uint8_t>(work, logits, labels);
    return 0;
}

/// The CPU form: an object for one size, called with logits (classes, h, w) and labels (out_h, out_w). Null when refused.
EnlargeOnCpu* edgesmith_enlarge_open(int classes, int h, int w, int out_h, int out_w, int aligned, int threads) {
    if (classes < 1 || classes > MOST_CLASSES || h < 1 || w < 1 || out_h < 1 || out_w < 1) return nullptr;
    return new EnlargeOnCpu(classes, axis(h, out_h, aligned != 0), axis(w, out_w, aligned != 0), threads);
}

void edgesmith_enlarge_run(EnlargeOnCpu* enlarge, float const* logits, uint8_t* labels) { (*enlarge)(logits, labels); }

void edgesmith_enlarge_close(EnlargeOnCpu* enlarge) { delete enlarge; }

}  // extern "C"
