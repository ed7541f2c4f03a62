// A case of the tables on the device: its tensors, a workspace, and the calls of the public API.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cuda/device_buffer.h"
#include "support/case_data.h"

namespace tokensieve::cuda::test {

using tokensieve::test::AttentionCase;
using tokensieve::test::CaseData;

// Off for initcheck, which sees poison as initialised memory.
inline bool poison_memory = true;

// A copy of a host tensor with the same strides.
class DeviceTensor {
 public:
  explicit DeviceTensor(const TensorView& host) : view_(host) {
    int64_t elements = 1;
    for (int axis = 0; axis < 4; ++axis) elements += (host.shape[axis] - 1) * host.strides[axis];
    memory_ = DeviceBuffer(static_cast<size_t>(elements) * dtype_size(host.dtype));
    host_ = host.data;
    upload();
    view_.data = memory_.data();
  }
  const TensorView& view() const { return view_; }
  void upload() { memory_.upload(host_); }
  void download() const { memory_.download(host_); }
  void fill(int byte) { memory_.fill(byte); }
  std::vector<uint16_t> bits() const { return memory_.read<uint16_t>(); }

 private:
  TensorView view_;
  DeviceBuffer memory_;
  void* host_;
};

// Kept tokens as the device chose them.
struct DeviceSets {
  std::vector<int64_t> count;                           // [batch]
  std::vector<std::vector<std::vector<int32_t>>> kept;  // [batch][set], empty if dense
};

// A KeepSet on the device. Its capacity is no multiple of a tile.
class GivenSets {
 public:
  GivenSets(const Plan& plan, const DeviceSets& sets) {
    for (const auto& sequence : sets.kept) {
      for (const auto& set : sequence) {
        capacity_ = std::max(capacity_, static_cast<int64_t>(set.size()) + 3);
      }
    }
    std::vector<int32_t> indices(plan.shape.batch * plan.num_sets * capacity_, -1);
    for (size_t b = 0; b < sets.kept.size(); ++b) {
      for (size_t set = 0; set < sets.kept[b].size(); ++set) {
        std::copy(sets.kept[b][set].begin(), sets.kept[b][set].end(),
                  indices.begin() + (static_cast<int64_t>(b) * plan.num_sets + set) * capacity_);
      }
    }
    indices_ = DeviceBuffer(indices);
    count_ = DeviceBuffer(sets.count);
  }
  KeepSet view() const { return {indices_.as<int32_t>(), capacity_, count_.as<int64_t>()}; }
  // Takes over the other's contents, which must have the same shape, into this memory.
  void assign(const GivenSets& other) {
    indices_.upload(other.indices_.read<int32_t>().data());
    count_.upload(other.count_.read<int64_t>().data());
  }
  int64_t capacity() const { return capacity_; }

 private:
  int64_t capacity_ = 1;
  DeviceBuffer indices_, count_;
};

class DeviceCase {
 public:
  DeviceCase(const Plan& plan, CaseData& data)
      : plan_(plan),
        data_(data),
        q_(data.q.view()),
        k_(data.k.view()),
        v_(data.v.view()),
        out_(data.out.view()),
        lse_(data.lse),
        sink_logits_(data.sink_logits),
        workspace_(workspace_bytes(plan)) {
    cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
  }
  ~DeviceCase() {
    cudaStreamDestroy(stream_);
  }
  DeviceCase(const DeviceCase&) = delete;

  cudaStream_t stream() const { return stream_; }
  std::span<std::byte> workspace() const { return {workspace_.data(), workspace_.bytes()}; }
  AttentionInputs inputs() const {
    return {.q = q_.view(),
            .k = k_.view(),
            .v = v_.view(),
            .sink_logits = sink_logits_.as<float>()};
  }
  AttentionOutputs outputs() const { return {.out = out_.view(), .lse = lse_.as<float>()}; }

  // Everything that a run writes, the workspace included.
  void poison(int byte) {
    if (!poison_memory) return;
    out_.fill(byte);
    lse_.fill(byte);
    workspace_.fill(byte);
    cudaDeviceSynchronize();
  }
  void upload_inputs() {
    q_.upload();
    k_.upload();
    v_.upload();
    cudaDeviceSynchronize();
  }

  Status enqueue() {
    return tokensieve::run(plan_, inputs(), outputs(), workspace(), {.stream = stream_});
  }
  // Keeps `sets` instead of choosing; a count above `kept` may claim anything.
  Status enqueue_given(const KeepSet& keep) {
    AttentionInputs in = inputs();
    in.keep = keep;
    return tokensieve::run(plan_, in, outputs(), workspace(), {.stream = stream_});
  }
  Status run_given(const DeviceSets& sets) {
    poison(0xff);
    const GivenSets given(plan_, sets);
    TOKENSIEVE_RETURN_IF_ERROR(enqueue_given(given.view()));
    return wait();
  }
  // Runs on poisoned memory and waits.
  Status run(int poison_byte = 0xff) {
    poison(poison_byte);
    TOKENSIEVE_RETURN_IF_ERROR(enqueue());
    return wait();
  }
  Status wait() const {
    const cudaError_t error = cudaStreamSynchronize(stream_);
    if (error == cudaSuccess) return {};
    return Status::error(StatusCode::kInternal, "device: %s", cudaGetErrorString(error));
  }

  std::vector<uint16_t> out_bits() const { return out_.bits(); }
  std::vector<uint32_t> lse_bits() const { return lse_.read<uint32_t>(); }
  // Back into `data`.
  void fetch() {
    out_.download();
    lse_.download(data_.lse.data());
  }

  Status select(DeviceSets& sets) {
    const AttentionShape& s = plan_.shape;
    const int64_t capacity = plan_.keep_capacity() + 13;
    DeviceBuffer indices(static_cast<size_t>(s.batch * plan_.num_sets * capacity) * 4);
    DeviceBuffer count(static_cast<size_t>(s.batch) * 8);
    if (poison_memory) {
      indices.fill(0xff);
      workspace_.fill(0xff);
      cudaDeviceSynchronize();
    }
    TOKENSIEVE_RETURN_IF_ERROR(select_tokens(plan_, inputs(),
                                             {indices.as<int32_t>(), capacity, count.as<int64_t>()},
                                             workspace(), {.stream = stream_}));
    TOKENSIEVE_RETURN_IF_ERROR(wait());
    sets.count = count.read<int64_t>();
    const std::vector<int32_t> all = indices.read<int32_t>();
    sets.kept.assign(s.batch, {});
    for (int64_t b = 0; b < s.batch; ++b) {
      if (sets.count[b] == s.seqlen_kv) continue;
      if (sets.count[b] < 0 || sets.count[b] > capacity) {
        return Status::error(StatusCode::kInternal, "count[%lld] is %lld", (long long)b,
                             (long long)sets.count[b]);
      }
      for (int64_t set = 0; set < plan_.num_sets; ++set) {
        const auto row = all.begin() + (b * plan_.num_sets + set) * capacity;
        sets.kept[b].emplace_back(row, row + sets.count[b]);
      }
    }
    return {};
  }

 private:
  const Plan& plan_;
  CaseData& data_;
  DeviceTensor q_, k_, v_, out_;
  DeviceBuffer lse_, sink_logits_, workspace_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace tokensieve::cuda::test
