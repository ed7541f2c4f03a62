// TMA descriptors of [batch, seq, head, dim] tensors.
#pragma once

#include <cuda.h>

#include "cuda/device/element.h"
#include "cuda/params.h"
#include "tokensieve/status.h"

namespace tokensieve::cuda::sm90 {

// Extents of a tensor, and the rows of a box of its map.
struct MapShape {
  int64_t batch, seq, heads, dim;
  int box_rows;
};

// Of whole k and v.
MapShape whole_shape(const Sequences& sequences, const Heads& heads, int head_dim, int box_rows);

// The 4D map {dim, seq, head, batch} over `tensor` with boxes of 64 columns in the 128-byte
// swizzle; rows past the end read as zeros. Host work only, about a microsecond.
Status encode_map(const Tensor& tensor, Element element, const MapShape& shape, CUtensorMap& map);

}  // namespace tokensieve::cuda::sm90
