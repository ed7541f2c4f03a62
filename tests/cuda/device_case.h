// A case of the tables on the device: its tensors, a workspace, and the calls of the public API.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <vector>

#include "cuda/device_buffer.h"
#include "support/case_data.h"

namespace tokensieve::cuda::test {

using tokensieve::test::AttentionCase;
using tokensieve::test::CaseData;

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
    const int64_t capacity = plan_.max_keep + s.seqlen_kv - plan_.prefix_len + 13;
    DeviceBuffer indices(static_cast<size_t>(s.batch * plan_.num_sets * capacity) * 4);
    DeviceBuffer count(static_cast<size_t>(s.batch) * 8);
    indices.fill(0xff);
    workspace_.fill(0xff);
    cudaDeviceSynchronize();
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
