// The CUDA kernels: entries for the blocks in zoomed_tile.h and enlarge_argmax.h, and their launches.
#include "kernels.h"
#include "zoomed_tile.h"

namespace edgesmith {
namespace {

struct Nothing {};

template <class V>
__global__ void __launch_bounds__(THREADS, 2)
zoomed_kernel(__grid_constant__ Pass const pass, typename V::Element const* in, typename V::Element const* weights,
              float const* bias, typename V::Element* out) {
    extern __shared__ __align__(16) char shared[];
    Block<typename V::State, THREADS> block;
    zoomed_tile<typename V::Element, V::ROWS, V::COLS, V::OUTPUTS, V::REDUCE, V::ENLARGE>(
        block, pass, int(blockIdx.x), int(blockIdx.y), in, weights, bias, out, shared);
}

template <class Element, class Label>
__global__ void __launch_bounds__(ENLARGE_THREADS)
enlarge_kernel(__grid_constant__ Enlargement const work, Element const* logits, Label* labels) {
    extern __shared__ __align__(16) char shared[];
    Block<Nothing, ENLARGE_THREADS> block;
    enlarge_tile(block, work, int(blockIdx.x), int(blockIdx.y), logits, labels, shared);
}

cudaError_t launch_pass(Pass const& pass, bool half, void const* in, char const* layer, size_t weight_bytes, void* out,
                        cudaStream_t stream) {
    return with_variant(pass, half, [&](auto variant) {
        using V = decltype(variant);
        using Element = typename V::Element;
        dim3 const grid(unsigned(pass.tiles_y * pass.tiles_x * pass.blocks), unsigned(pass.images));
        zoomed_kernel<V><<<grid, THREADS, size_t(pass.shared_bytes), stream>>>(
            pass, static_cast<Element const*>(in), reinterpret_cast<Element const*>(layer),
            reinterpret_cast<float const*>(layer + weight_bytes), static_cast<Element*>(out));
        return cudaGetLastError();
    });
}

template <class Element, class Label>
cudaError_t launch_enlarge(Enlargement const& work, void const* logits, void* labels, cudaStream_t stream) {
    int const tiles = parts(work.y.in, ENLARGE_ROWS) * parts(work.x.in, ENLARGE_COLS);
    dim3 const grid(unsigned(tiles), unsigned(work.images));
    enlarge_kernel<Element, Label><<<grid, ENLARGE_THREADS, size_t(enlarge_shared_bytes(work.classes)), stream>>>(
        work, static_cast<Element const*>(logits), static_cast<Label*>(labels));
    return cudaGetLastError();
}

}  // namespace

int processors() {
    int device = 0, count = 0;
    bool const known = cudaGetDevice(&device) == cudaSuccess &&
                       cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess;
    return known ? count : 16;
}

cudaError_t launch(Plan const& plan, Zoomed const& z, void const* in, void const* block, void* workspace, void* out,
                   cudaStream_t stream) {
    char const* layer = static_cast<char const*>(block);
    for (int i = 0; i < plan.count; ++i) {
        LayerBytes const size = layer_bytes(z, i);
        cudaError_t const error = launch_pass(plan.pass[i], z.half != 0, i == 0 ? in : workspace, layer, size.weights,
                                              i == plan.count - 1 ? out : workspace, stream);
        if (error != cudaSuccess) return error;
        layer += size.total();
    }
    return cudaSuccess;
}

cudaError_t launch(Enlargement const& work, bool half, bool half_labels, void const* logits, void* labels, cudaStream_t stream) {
    if (half)
        return half_labels ? launch_enlarge<Half, Half>(work, logits, labels, stream)
                           : launch_enlarge<Half, uint8_t>(work, logits, labels, stream);
    return half_labels ? launch_enlarge<float, Half>(work, logits, labels, stream)
                       : launch_enlarge<float, uint8_t>(work, logits, labels, stream);
}

}  // namespace edgesmith
