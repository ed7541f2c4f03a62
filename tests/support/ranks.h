// A layer whose heads are split over ranks: threads of this process with an all-gather.
#pragma once

#include <barrier>
#include <cstddef>
#include <cstring>
#include <thread>
#include <vector>

#include "tokensieve/attention.h"

namespace tokensieve::test {

// What RunOptions::all_gather needs, for host memory.
class AllGather {
 public:
  explicit AllGather(int num_ranks) : barrier_(num_ranks), num_ranks_(num_ranks) {}

  struct Rank {
    AllGather* all;
    int rank;
    int calls = 0;
  };

  static bool gather(void* context, void* data, size_t bytes, void*) {
    Rank& own = *static_cast<Rank*>(context);
    ++own.calls;
    own.all->exchange(own.rank, static_cast<std::byte*>(data), bytes);
    return true;
  }

 private:
  void exchange(int rank, std::byte* data, size_t bytes) {
    if (rank == 0) shared_.resize(bytes * static_cast<size_t>(num_ranks_));
    barrier_.arrive_and_wait();
    std::memcpy(&shared_[bytes * static_cast<size_t>(rank)], data + bytes * rank, bytes);
    barrier_.arrive_and_wait();
    std::memcpy(data, shared_.data(), shared_.size());
    barrier_.arrive_and_wait();  // rank 0 may resize
  }

  std::barrier<> barrier_;
  int num_ranks_;
  std::vector<std::byte> shared_;
};

// This rank's part of a [batch, seq, heads, dim] tensor.
inline TensorView heads_of_rank(const TensorView& x, int rank, int num_ranks) {
  TensorView view = x;
  view.shape[2] = x.shape[2] / num_ranks;
  view.data = static_cast<std::byte*>(x.data) +
              rank * view.shape[2] * x.strides[2] * static_cast<int64_t>(dtype_size(x.dtype));
  return view;
}

inline AttentionInputs inputs_of_rank(const AttentionInputs& in, int rank, int num_ranks) {
  AttentionInputs own = in;
  own.q = heads_of_rank(in.q, rank, num_ranks);
  own.k = heads_of_rank(in.k, rank, num_ranks);
  own.v = heads_of_rank(in.v, rank, num_ranks);
  if (in.sink_logits != nullptr) own.sink_logits = in.sink_logits + rank * own.q.shape[2];
  return own;
}

inline AttentionShape shape_of_rank(AttentionShape shape, int num_ranks) {
  shape.num_q_heads /= num_ranks;
  shape.num_kv_heads /= num_ranks;
  return shape;
}

// Calls body(rank) in a thread each.
template <typename F>
void for_ranks(int num_ranks, F&& body) {
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) threads.emplace_back([&, rank] { body(rank); });
}

}  // namespace tokensieve::test
