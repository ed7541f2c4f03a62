// The launches of one call, stage by stage.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/checks.h"
#include "cuda/layout.h"
#include "cuda/params.h"
#include "tokensieve/attention.h"

namespace tokensieve::cuda {

Tensor tensor_of(const TensorView& view);

// What the launches of a call share. The stages must be called in order: score, gather_scores and
// select, or take_given; compact; masks; attend. Each may be repeated before the next one is
// called.
class Call {
 public:
  Call(const Plan& plan, const AttentionInputs& in, const Layout& layout, const Device& device,
       void* stream)
      : plan_(plan),
        in_(in),
        layout_(layout),
        device_(device),
        stream_(static_cast<cudaStream_t>(stream)) {}

  // Sparse plans.
  Status score();
  // This rank's [batch, num_q_heads, prefix_stride] in layout.token_score; sequences lie
  // layer_heads rows apart.
  float* own_scores() const;
  // Other ranks' rows of layout.token_score.
  Status gather_scores(const RunOptions& options);
  // Stages budget and select, from layout.token_score; clears attend's tile counters.
  Status select(const Selection& selection, int64_t* public_count);
  // In their place: the sets of AttentionInputs::keep.
  Status take_given(const Selection& selection);
  Status compact(const Selection& selection);
  // Stage estimate, if the plan has block masks: their bits in layout.block_bits, unless they are
  // given, and what attend visits of them.
  Status masks(const Selection& selection);
  // For read_report, where no mask was made.
  Status no_masks();
  // Stages attend and scatter.
  Status attend(const AttentionOutputs& out, const Selection& selection);
  Selection own_selection() const { return cuda::own_selection(plan_, layout_); }
  // The sequences' lengths, for read_report.
  Status keep_lengths();

  // Dense plans.
  Status attend_dense(const AttentionOutputs& out);

 private:
  Element element() const { return element_of(plan_.shape.dtype); }
  Sequences sequences() const { return sequences_of(plan_, in_); }
  Softmax softmax() const {
    return {plan_.shape.sm_scale, plan_.shape.softcap, in_.sink_logits};
  }
  Tensor compacted(void* data) const;
  Status estimate(const Selection& selection);
  Blocks blocks() const;
  AttendParams attend_params(const AttentionOutputs& out, const Selection& selection) const;
  // Every attend launch of a call has counters of its own: [next tile, finished CTAs].
  enum TileCounter : int { kFirstPass = 0, kSecondPass = 2 };
  Status attend_pass(AttendParams& params, Keys keys, TileCounter counter);

  const Plan& plan_;
  const AttentionInputs& in_;
  const Layout& layout_;
  const Device device_;
  cudaStream_t stream_;
};

}  // namespace tokensieve::cuda
