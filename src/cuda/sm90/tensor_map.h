// TMA descriptors of [batch, seq, head, dim] tensors.
#pragma once

#include <cuda.h>

#include "cuda/device/element.h"
#include "cuda/params.h"
#include "tokensieve/status.h"

namespace tokensieve::cuda::sm90 {

// The 4D map {dim, seq, head, batch} over `tensor` with boxes of 64 columns and `box_rows` rows in
// the 128-byte swizzle; rows past the end read as zeros. Host work only, about a microsecond.
Status encode_map(const Tensor& tensor, Element element, int64_t batch, int64_t seq, int64_t heads,
                  int64_t dim, int box_rows, CUtensorMap& map);

}  // namespace tokensieve::cuda::sm90
