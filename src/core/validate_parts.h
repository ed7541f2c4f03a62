// The checks that those of a call are made of: tensors (validate_tensors.cc), kept tokens
// (validate_sets.cc).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>

#include "tokensieve/attention.h"

namespace tokensieve {

// More elements than any tensor spans; products and sums of valid strides stay below 2^63 bytes.
inline constexpr int64_t kMaxExtent = int64_t{1} << 46;

// Bytes that a call reads or writes.
struct Region {
  const char* name;
  uintptr_t begin = 0, end = 0;

  Region(const char* region_name, const void* data, size_t bytes);
  Region(const char* region_name, const TensorView& view);
  bool overlaps(const Region& other) const { return begin < other.end && other.begin < end; }
};

// No written region may overlap another one.
Status check_disjoint(std::initializer_list<Region> written, std::initializer_list<Region> read);

// What a tensor must be: [batch, seq, heads, dim].
struct Expected {
  DType dtype;
  int64_t batch;
  int64_t seq;
  int64_t heads;
  int64_t dim;
  bool more_rows = false;  // seq is the least
};
Status check_tensor(const char* name, const TensorView& view, const Expected& expected);

// The rows of a written tensor must not overlap one another: sorted by stride, every axis steps
// past all the inner ones.
Status check_no_self_overlap(const char* name, const TensorView& view);

// Pointers of the plan's calls are device memory, which the host must not read.
bool on_device(const Plan& plan);

// `least`: of its capacity.
Status check_keep_memory(const Plan& plan, const KeepSet& keep, int64_t least);

// inputs.keep of a run.
Status check_given(const Plan& plan, const AttentionInputs& inputs);

// Its block mask, scores and thresholds (validate_blocks.cc), and the bytes of the first two.
Status check_blocks(const Plan& plan, const AttentionInputs& inputs);
size_t mask_bytes(const Plan& plan);
size_t block_score_bytes(const Plan& plan);

// Of any call (validate_run.cc). Token -> row tables are data, but a wrong entry would read foreign
// memory; `rows`: of k and v.
Status check_workspace(const Plan& plan, std::span<std::byte> workspace,
                       const RunOptions& options);
Status check_kv_indices(const Plan& plan, const int32_t* kv_indices, int64_t rows);

}  // namespace tokensieve
