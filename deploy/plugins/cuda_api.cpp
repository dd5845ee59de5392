// The CUDA launches for ctypes, without TensorRT: what the benchmark calls. Pointers are device memory but for weights' sources.
#include "kernels.h"

using namespace edgesmith;

namespace {

Strides strides_of(int pitch, int channels, int h, int w, int element_size) {
    return pitch == 0 ? planar(channels, h, w) : channels_last(pitch, h, w, element_size);
}

Plan planned(Zoomed const& z, int images, int h, int w, int in_pitch, int out_pitch, int forced_shape) {
    bool const enlarge = z.stride == 1;
    int const size = z.element_size(), out_h = enlarge ? h : halved(h), out_w = enlarge ? w : halved(w);
    Strides const in = strides_of(in_pitch, z.channels, h, w, size), out = strides_of(out_pitch, z.outputs, out_h, out_w, size);
    return plan(z, images, h, w, in, out, processors(), forced_shape);
}

}  // namespace

extern "C" {

char const* edgesmith_source_digest() { return EDGESMITH_SOURCE_DIGEST; }

/// Packed weights, written to host memory where `bytes` is not null; how many bytes they are, or 0 for an impossible operator.
size_t edgesmith_zoomed_pack(Zoomed const* z, float const* const* weights, float const* const* biases, void* bytes) {
    if (!z->valid()) return 0;
    if (bytes != nullptr) {
        std::vector<uint8_t> const made = packed(*z, weights, biases);
        std::memcpy(bytes, made.data(), made.size());
    }
    return packed_bytes(*z);
}

size_t edgesmith_zoomed_workspace(Zoomed const* z, int images, int h, int w, int in_pitch, int out_pitch, int forced_shape) {
    return planned(*z, images, h, w, in_pitch, out_pitch, forced_shape).workspace_bytes;
}

/// Returns a cudaError_t. A pitch of 0 means planes.
int edgesmith_zoomed_launch(Zoomed const* z, int images, int h, int w, int in_pitch, int out_pitch, int forced_shape,
                            void const* in, void const* block, void* workspace, void* out, void* stream) {
    Plan const made = planned(*z, images, h, w, in_pitch, out_pitch, forced_shape);
    return int(launch(made, *z, in, block, workspace, out, static_cast<cudaStream_t>(stream)));
}

int edgesmith_enlarge_launch(int images, int classes, int h, int w, int out_h, int out_w, int aligned, int pitch, int half,
                             int half_labels, void const* logits, void* labels, void* stream) {
    Strides const s = strides_of(pitch, classes, h, w, half ? 2 : 4);
    Axis const y = axis(h, out_h, aligned != 0), x = axis(w, out_w, aligned != 0);
    Enlargement const work{classes, images, y, x, s.channel, s.pixel, s.row, s.image};
    return int(launch(work, half != 0, half_labels != 0, logits, labels, static_cast<cudaStream_t>(stream)));
}

}  // extern "C"
