#include <utility>

#include "core/validate_parts.h"

namespace tokensieve {
namespace {

Status check_strides(const char* name, const TensorView& view) {
  if (view.strides[3] != 1) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s.strides[3] is %lld; allowed: 1 (head_dim must be contiguous; copy the "
                         "tensor)",
                         name, (long long)view.strides[3]);
  }
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t steps = view.shape[axis] - 1, stride = view.strides[axis];
    const int64_t most = kMaxExtent / (steps > 0 ? steps : 1);
    const bool repeats = stride == 0;  // check_no_self_overlap refuses it where rows are written
    const bool apart = stride >= view.shape[3] || (steps <= 0 && stride > 0);
    if ((!repeats && !apart) || stride > most) {
      return Status::error(StatusCode::kInvalidArgument,
                           "%s.strides[%d] is %lld elements; allowed: 0 (the same rows again) and "
                           "%lld (head_dim) to %lld",
                           name, axis, (long long)stride, (long long)view.shape[3],
                           (long long)most);
    }
  }
  return {};
}

}  // namespace

Region::Region(const char* region_name, const void* data, size_t bytes) : name(region_name) {
  if (data == nullptr || bytes == 0) return;
  begin = reinterpret_cast<uintptr_t>(data);
  end = begin + bytes;
}

Region::Region(const char* region_name, const TensorView& view) : name(region_name) {
  int64_t last = 0;
  for (int axis = 0; axis < 4; ++axis) last += (view.shape[axis] - 1) * view.strides[axis];
  begin = reinterpret_cast<uintptr_t>(view.data);
  end = begin + static_cast<size_t>(last + 1) * dtype_size(view.dtype);
}

Status check_disjoint(std::initializer_list<Region> written, std::initializer_list<Region> read) {
  const auto overlap = [](const Region& a, const Region& b) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s overlaps %s in memory; give %s a buffer of its own", a.name, b.name,
                         a.name);
  };
  for (const Region* a = written.begin(); a != written.end(); ++a) {
    for (const Region* b = a + 1; b != written.end(); ++b) {
      if (a->overlaps(*b)) return overlap(*a, *b);
    }
    for (const Region& b : read) {
      if (a->overlaps(b)) return overlap(*a, b);
    }
  }
  return {};
}

Status check_tensor(const char* name, const TensorView& view, const Expected& expected) {
  const auto& [dtype, batch, seq, heads, dim, more_rows] = expected;
  const auto& s = view.shape;
  if (view.data == nullptr) {
    return Status::error(StatusCode::kInvalidArgument, "%s.data is null; pass the tensor's memory",
                         name);
  }
  if (view.dtype != dtype) {
    return Status::error(StatusCode::kInvalidArgument, "%s is %s; the plan needs %s", name,
                         dtype_name(view.dtype), dtype_name(dtype));
  }
  const bool seq_ok = more_rows ? s[1] >= seq && s[1] <= kMaxExtent : s[1] == seq;
  if (s[0] != batch || !seq_ok || s[2] != heads || s[3] != dim) {
    return Status::error(StatusCode::kInvalidArgument,
                         "%s has shape [%lld, %lld, %lld, %lld] (batch, seq, head, dim); the plan "
                         "needs [%lld, %s%lld, %lld, %lld]",
                         name, (long long)s[0], (long long)s[1], (long long)s[2], (long long)s[3],
                         (long long)batch, more_rows ? ">= " : "", (long long)seq, (long long)heads,
                         (long long)dim);
  }
  TOKENSIEVE_RETURN_IF_ERROR(check_strides(name, view));
  if (reinterpret_cast<uintptr_t>(view.data) % dtype_size(dtype) != 0) {
    return Status::error(StatusCode::kInvalidArgument, "%s.data is not aligned to its %zu-byte %s",
                         name, dtype_size(dtype), dtype_name(dtype));
  }
  return {};
}

Status check_no_self_overlap(const char* name, const TensorView& view) {
  int order[3] = {0, 1, 2};
  for (int i = 0; i < 3; ++i) {
    for (int j = i + 1; j < 3; ++j) {
      if (view.strides[order[j]] < view.strides[order[i]]) std::swap(order[i], order[j]);
    }
  }
  int64_t extent = view.shape[3];
  for (int axis : order) {
    if (view.shape[axis] == 1) continue;
    if (view.strides[axis] < extent) {
      return Status::error(StatusCode::kInvalidArgument,
                           "%s.strides[%d] is %lld, so its rows overlap; allowed: at least %lld",
                           name, axis, (long long)view.strides[axis], (long long)extent);
    }
    extent += view.strides[axis] * (view.shape[axis] - 1);
  }
  return {};
}

}  // namespace tokensieve
