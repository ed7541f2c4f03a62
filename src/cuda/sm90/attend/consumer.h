// A consumer warpgroup: 64 query rows of a tile against all its key tiles.
//
// Q K^T of tile i is issued before P V of tile i - 1, so that the softmax of i runs under P V; and
// the two warpgroups take turns at issuing, so that the softmax of one runs under the products of
// the other. Per key tile of 128 x 128 at head_dim 128 the tensor cores need about 2000 clocks, the
// exponentials 1024, the rest of softmax about 600.
#pragma once

#include "cuda/device/logits.h"
#include "cuda/device/online_softmax.h"
#include "cuda/sm90/ptx/wgmma.h"
#include "cuda/sm90/attend/producer.h"

namespace tokensieve::cuda::sm90 {

// The key columns [begin, end) that each of a thread's two rows sees in a visit.
struct KeyBounds {
  int begin[2];
  int end[2];
};

template <class Traits>
class Consumer {
 public:
  static constexpr int kLogits = Traits::kTileK / 2;       // accumulator registers of Q K^T
  static constexpr int kOutputs = Traits::kHeadDim / 2;    // and of P V
  using Visible = typename Traits::Visible;
  using OutputMma = ptx::Wgmma<typename Traits::Element, Traits::kHeadDim>;

  float out[kOutputs];
  OnlineSoftmax softmax;
  float scale;  // logits times scale are in base 2
  int queries;  // lane l: query of row l % 16 of the warp, for the epilogue

  __device__ __forceinline__ Consumer(const AttendParams& params, SharedMemory<Traits>& shared)
      : params_(params), shared_(shared), group_(threadIdx.x / 128 - 1) {
    scale = Traits::kSoftcap ? kLog2e : params.softmax.sm_scale * kLog2e;
    cap_exponent_scale_ = Traits::kSoftcap ? cap_exponent_scale(params.softmax) : 0.0f;
    if (Traits::kPingPong && group_ == 1) give_turn();
  }

  // Rows of the tile that this thread owns: first_row() and first_row() + 8.
  __device__ __forceinline__ int first_row() const {
    return group_ * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
  }

  // Attends the whole tile: out unnormalised, softmax.sum the whole row's.
  __device__ __forceinline__ void attend(const Tile& tile, int q_slot) {
    const uint32_t q = ptx::shared_address(shared_.q[q_slot]) + group_ * 64 * 128;
    const TokenSet set =
        token_set(params_.selection, tile.batch, tile.head, params_.heads.num_q_heads);
    const KeyBounds bounds = key_bounds(tile, set);
    queries = stored_queries(tile, set);
    const int visits = tile.visits();
    const bool narrow = Visible::kSinks && tile.sink_tile && params_.local.sink_tokens <= kNarrow;
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) out[i] = 0.0f;
    softmax = OnlineSoftmax{};
    if (Visible::kBlocks && visits == 0) return;
    float rescale[2];

    if (narrow) {
      visit_few_sinks(bounds, q);
    } else {
      issue_logits(q);
      ptx::wgmma_wait<0>();
      ptx::keep_in_order(logits_);
      softmax_of_visit(tile, bounds, 0, rescale);
      pack();
    }
    release(shared_.k_empty, stage_.slot);
    RingPosition<Traits::kStages> previous = stage_;
    stage_.advance();

    for (int i = 1; i < visits; ++i) {
      take_turn();
      issue_logits(q);
      issue_output(previous, narrow && i == 1);
      give_turn();
      ptx::wgmma_wait<1>();
      ptx::keep_in_order(logits_);
      release(shared_.k_empty, stage_.slot);
      softmax_of_visit(tile, bounds, i, rescale);
      ptx::wgmma_wait<0>();
      ptx::keep_in_order(out);
      release(shared_.v_empty, previous.slot);
      if (__any_sync(~0u, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
        for (int k = 0; k < kOutputs; ++k) out[k] *= rescale[k >> 1 & 1];
      }
      pack();
      ptx::keep_in_order(out);
      previous = stage_;
      stage_.advance();
    }
    issue_output(previous, narrow && visits == 1);
    ptx::wgmma_wait<0>();
    ptx::keep_in_order(out);
    release(shared_.v_empty, previous.slot);
    softmax.quad_sum();
  }

 private:
  static constexpr int kNarrow = 16;  // columns of a visit to a few sinks: one step of P V

  // logits = Q K^T of the current stage, the first kColumns keys of it.
  template <int kColumns = Traits::kTileK>
  __device__ __forceinline__ void issue_logits(uint32_t q, float (&logits)[kColumns / 2]) {
    using Mma = ptx::Wgmma<typename Traits::Element, kColumns>;
    ptx::mbarrier_wait(&shared_.k_full[stage_.slot], stage_.phase);
    const uint32_t k = ptx::shared_address(shared_.k[stage_.slot]);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < Traits::kHeadDim / 16; ++step) {
      const int panel = step / 4;
      const uint64_t a = ptx::descriptor(q + panel * Traits::kTileQ * 128 + step % 4 * 32, 16);
      const uint64_t b = ptx::descriptor(k + panel * Traits::kTileK * 128 + step % 4 * 32, 16);
      if (step == 0) {
        Mma::template ss<0>(logits, a, b);
      } else {
        Mma::template ss<1>(logits, a, b);
      }
    }
    ptx::wgmma_commit();
  }
  __device__ __forceinline__ void issue_logits(uint32_t q) { issue_logits(q, logits_); }

  // out += P V of an earlier stage; of its first kNarrow keys only if `narrow`.
  __device__ __forceinline__ void issue_output(const RingPosition<Traits::kStages>& stage,
                                               bool narrow) {
    ptx::mbarrier_wait(&shared_.v_full[stage.slot], stage.phase);
    const uint32_t v = ptx::shared_address(shared_.v[stage.slot]);
    if (Visible::kSinks && narrow) {
      add_output<kNarrow / 16>(v);
    } else {
      add_output<Traits::kTileK / 16>(v);
    }
  }

  template <int kSteps>
  __device__ __forceinline__ void add_output(uint32_t v) {
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      OutputMma::rs(out, probabilities_ + 4 * step,
                    ptx::descriptor(v + step * 2048, Traits::kTileK * 128));
    }
    ptx::wgmma_commit();
  }

  // The usual visit to the sinks: up to 16 keys, an eighth of a tile's work.
  __device__ __forceinline__ void visit_few_sinks(const KeyBounds& bounds, uint32_t q) {
    float logits[kNarrow / 2];
    issue_logits<kNarrow>(q, logits);
    ptx::wgmma_wait<0>();
    ptx::keep_in_order(logits);
    cap(logits);
    hide(logits, sink_bounds(bounds), 0);
    float rescale[2];
    softmax.update(logits, scale, rescale);
#pragma unroll
    for (int i = 0; i < kNarrow / 4; ++i) {
      probabilities_[i] = ptx::pack<typename Traits::Element>(logits[2 * i], logits[2 * i + 1]);
    }
  }

  // What a row sees of the sinks: those before its window.
  __device__ __forceinline__ KeyBounds sink_bounds(const KeyBounds& bounds) const {
    return {{0, 0},
            {min(params_.local.sink_tokens, bounds.begin[0]),
             min(params_.local.sink_tokens, bounds.begin[1])}};
  }

  template <int kCount>
  __device__ __forceinline__ void cap(float (&logits)[kCount]) const {
    if constexpr (Traits::kSoftcap) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        logits[i] = cap_logit(logits[i], params_.softmax.softcap, cap_exponent_scale_);
      }
    }
  }

  // Softmax of visit `i`: the sinks first if the tile has them, then the key tiles downwards, of a
  // block mask those that the K/V thread took.
  __device__ __forceinline__ void softmax_of_visit(const Tile& tile, const KeyBounds& bounds,
                                                   int i, float (&rescale)[2]) {
    cap(logits_);
    if (Visible::kSinks && tile.sink_tile && i == 0) {
      hide(logits_, sink_bounds(bounds), 0);
    } else {
      const int first = Visible::kBlocks ? shared_.visit_key[stage_.slot_of_two_rounds()]
                                         : tile.key_tile(i) * Traits::kTileK;
      const bool cut = first + Traits::kTileK > min(bounds.end[0], bounds.end[1]) ||
                       (Visible::kLowerBound && first < max(bounds.begin[0], bounds.begin[1]));
      if (__any_sync(~0u, cut)) hide(logits_, bounds, first);
    }
    softmax.update(logits_, scale, rescale);
  }

  // Hides what the rows do not see of the keys from column `first` on.
  template <int kCount>
  __device__ __forceinline__ void hide(float (&logits)[kCount], const KeyBounds& bounds,
                                       int first) const {
    const int base = first + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int column = base + i / 4 * 8 + (i & 1);
      const int row = i >> 1 & 1;
      const bool hidden = column >= bounds.end[row] ||
                          (Visible::kLowerBound && column < bounds.begin[row]);
      if (hidden) logits[i] = ptx::negative_infinity();
    }
  }

  __device__ __forceinline__ KeyBounds key_bounds(const Tile& tile, const TokenSet& set) const {
    KeyBounds bounds;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = min(tile.row + first_row() + 8 * i, tile.num_rows - 1);
      const KeyRange keys = Visible::row_keys(params_, set, tile, tile.first_key + row);
      bounds.begin[i] = keys.begin;
      bounds.end[i] = keys.end;
    }
    return bounds;
  }

  __device__ __forceinline__ int stored_queries(const Tile& tile, const TokenSet& set) const {
    const Sequence where = sequence(params_.sequences, tile.batch);
    const int row = tile.row + first_row() - threadIdx.x % 32 / 4 + threadIdx.x % 16;
    return query_of_row<Traits>(params_, tile, set, where.seqlen_kv - where.seqlen_q,
                                min(row, tile.num_rows - 1));
  }

  __device__ __forceinline__ void pack() {
#pragma unroll
    for (int i = 0; i < kLogits / 2; ++i) {
      probabilities_[i] =
          ptx::pack<typename Traits::Element>(logits_[2 * i], logits_[2 * i + 1]);
    }
    ptx::keep_in_order(probabilities_);
  }

  __device__ __forceinline__ void release(uint64_t* empty, int slot) {
    if (threadIdx.x % 128 == 0) ptx::mbarrier_arrive(&empty[slot]);
  }

  __device__ __forceinline__ void take_turn() {
    if (Traits::kPingPong) {
      ptx::named_barrier_sync(kTurnOfGroup0 + group_, Traits::kConsumerThreads);
    }
  }
  __device__ __forceinline__ void give_turn() {
    if (Traits::kPingPong) {
      ptx::named_barrier_arrive(kTurnOfGroup1 - group_, Traits::kConsumerThreads);
    }
  }

  const AttendParams& params_;
  SharedMemory<Traits>& shared_;
  const int group_;
  float cap_exponent_scale_;
  float logits_[kLogits];
  uint32_t probabilities_[kLogits / 2];  // 16-bit pairs: the A operand of P V
  RingPosition<Traits::kStages> stage_;
};

}  // namespace tokensieve::cuda::sm90
