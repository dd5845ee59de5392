// CUDA launches, behind plain functions: what stands here includes no device code, and allocates and waits for nothing.
#pragma once

#include <cuda_runtime_api.h>

#include "enlarge_argmax.h"
#include "zoomed.h"

namespace edgesmith {

/// Multiprocessors of the current device; a guess where there is none.
int processors();

/// Runs `plan` in `stream`: `block` is the packed weights in device memory, `workspace` as large as the plan says.
cudaError_t launch(Plan const& plan, Zoomed const& z, void const* in, void const* block, void* workspace, void* out,
                   cudaStream_t stream);

/// Labels of enlarged logits: fp16 or fp32 logits, labels as bytes or fp16.
cudaError_t launch(Enlargement const& work, bool half, bool half_labels, void const* logits, void* labels, cudaStream_t stream);

}  // namespace edgesmith
