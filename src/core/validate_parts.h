// The checks that those of a call are made of: tensors (validate_tensors.cc), kept tokens
// (validate_sets.cc).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <type_traits>

#include "tokensieve/attention.h"
#include "tokensieve/names.h"

namespace tokensieve {

// The first field among those that `reads(about)` names whose value is not allowed; `prefix` goes
// before its name. SelectConfig, BlockConfig.
template <typename Settings, typename Reads>
Status check_fields(const Settings& settings, const char* prefix, Reads&& reads) {
  Status status;
  const auto refuse = [&](const char* name, double value, const char* allowed) {
    status = Status::error(StatusCode::kInvalidArgument, "%s%s is %g; allowed: %s", prefix, name,
                           value, allowed);
  };
  for_each_field(settings, [&](const auto& about, const auto& value) {
    using Value = std::remove_cvref_t<decltype(value)>;
    if (!status.ok() || !reads(about)) return;
    if constexpr (std::is_enum_v<Value>) {
      if (!is_valid(value)) refuse(about.name, static_cast<int>(value), allowed_words<Value>());
    } else if constexpr (!std::is_same_v<Value, bool>) {
      const auto number = static_cast<double>(value);
      if (!about.allows(number)) refuse(about.name, number, about.allowed);
    }
  });
  return status;
}

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

// The q and k of a call of one sequence after the other, whose v is not read.
Status check_q_and_k(const Plan& plan, const AttentionInputs& inputs);

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
