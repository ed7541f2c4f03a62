// Any parameters and any shapes over the C ABI: an error with a message, or a run that stays inside
// its buffers and writes every row. Buffers are exactly as large as they must be.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "bytes.h"
#include "tokensieve/tokensieve_blocks_c.h"

using tokensieve::fuzz::Bytes;

namespace {

tokensieve_shape take_shape(Bytes& bytes) {
  tokensieve_shape s;
  tokensieve_shape_init(&s);
  s.batch = bytes.odd_or<int64_t>(bytes.range(1, 2));
  s.seqlen_kv = bytes.odd_or<int64_t>(bytes.range(1, 200));
  const int64_t most = std::clamp<int64_t>(s.seqlen_kv, 1, 200);
  const int64_t suffix = bytes.range(0, 3) == 0 ? bytes.range(1, most) : s.seqlen_kv;
  s.seqlen_q = bytes.odd_or<int64_t>(suffix);
  s.num_kv_heads = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(1, 2)));
  const int64_t group = bytes.range(1, 3);
  s.num_q_heads = bytes.odd_or<int32_t>(static_cast<int32_t>((s.num_kv_heads & 0xff) * group));
  s.head_dim = bytes.odd_or<int32_t>(static_cast<int32_t>(16 * bytes.range(1, 3)));
  s.dtype = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 2)));
  s.kv_dtype = bytes.odd_or<int32_t>(s.dtype);
  s.out_dtype = bytes.odd_or<int32_t>(s.dtype);
  s.causal = bytes.odd_or<int32_t>(1);
  s.sm_scale = bytes.odd_or<float>(0.0f);
  s.softcap = bytes.odd_or<float>(0.0f);
  return s;
}

tokensieve_select take_select(Bytes& bytes) {
  tokensieve_select c;
  tokensieve_select_init(&c);
  c.enabled = bytes.odd_or<int32_t>(1);
  c.budget = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 2)));
  c.share = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 2)));
  c.fill = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 1)));
  c.queries = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 1)));
  c.arithmetic = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 1)));
  c.dense_policy = bytes.odd_or<int32_t>(1);
  c.tau = bytes.odd_or<double>(0.1);
  c.keep_ratio = bytes.odd_or<double>(0.3);
  c.min_drop = bytes.odd_or<double>(0.0);
  c.keep_count = bytes.odd_or<int64_t>(bytes.range(1, 100));
  c.min_keep = bytes.odd_or<int64_t>(bytes.range(0, 20));
  c.obs_window = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(1, 40)));
  c.pool_width = bytes.odd_or<int32_t>(static_cast<int32_t>(1 + 2 * bytes.range(0, 5)));
  c.protect_first = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 8)));
  c.local_window = bytes.odd_or<int32_t>(static_cast<int32_t>(64 * bytes.range(0, 2)));
  c.sinks = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 5)));
  return c;
}

tokensieve_blocks take_blocks(Bytes& bytes) {
  tokensieve_blocks b;
  tokensieve_blocks_init(&b);
  b.pattern = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 6)));
  b.share = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 2)));
  b.stride = bytes.odd_or<int32_t>(static_cast<int32_t>(8 << bytes.range(0, 2)));
  b.gamma = bytes.odd_or<double>(0.9);
  b.flex_tau = bytes.odd_or<double>(0.1);
  b.threshold = bytes.odd_or<double>(0.8);
  b.alpha = bytes.odd_or<double>(0.2);
  b.min_budget = bytes.odd_or<int64_t>(bytes.range(0, 200));
  b.max_budget = bytes.odd_or<int64_t>(bytes.range(0, 1) * 128);
  b.dense_rows = bytes.odd_or<int64_t>(bytes.range(0, 200));
  b.sink_tiles = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 2)));
  b.window_tiles = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(1, 2)));
  b.last_tiles = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(0, 2)));
  b.verticals = bytes.odd_or<int64_t>(bytes.range(0, 200));
  b.slashes = bytes.odd_or<int64_t>(bytes.range(0, 200));
  b.slash_ratio = bytes.odd_or<double>(0.25 * static_cast<double>(bytes.range(0, 1)));
  return b;
}

// Memory of exactly one tensor, so that a sanitizer sees every step outside.
struct Buffer {
  tokensieve_tensor view;
  std::unique_ptr<unsigned char[]> memory;
  size_t bytes;

  Buffer(int32_t dtype, bool bhsd, int64_t batch, int64_t seq, int64_t heads, int64_t dim)
      : bytes(static_cast<size_t>(batch * seq * heads * dim) * (dtype == TOKENSIEVE_F32 ? 4 : 2)) {
    memory.reset(new unsigned char[bytes]);
    (bhsd ? tokensieve_tensor_init_bhsd : tokensieve_tensor_init_bshd)(&view, memory.get(), dtype,
                                                                       batch, seq, heads, dim);
  }
  // Finite values of any dtype (exponents below 0x40), from a short seed.
  void fill(uint32_t seed) {
    for (size_t i = 0; i < bytes; ++i) {
      seed = seed * 1664525u + 1013904223u;
      memory[i] = static_cast<unsigned char>(seed >> 24) & (i % 2 ? 0xbf : 0xff);
    }
  }
  void poison() { std::memset(memory.get(), 0xff, bytes); }
};

// Shapes may become anything, strides anything not longer: what passes stays inside the buffer.
void disturb(Bytes& bytes, tokensieve_tensor& view) {
  for (int axis = 0; axis < 4; ++axis) {
    view.shape[axis] = bytes.odd_or<int64_t>(view.shape[axis]);
    const int64_t stride = bytes.odd_or<int64_t>(view.strides[axis]);
    if (stride <= view.strides[axis] || view.shape[axis] <= 1) view.strides[axis] = stride;
  }
}

// What a plan with block masks reads beside tensors: any bits.
struct BlockInputs {
  std::vector<uint32_t> bits;
  std::vector<float> scores, thresholds;
  std::vector<int32_t> sizes;
  bool bad_sizes = false;  // that the plan does not allow
  tokensieve_block_mask mask;

  BlockInputs(Bytes& bytes, const tokensieve_shape& s, const tokensieve_blocks& blocks,
              const tokensieve_plan_info& info, tokensieve_inputs& inputs) {
    const int64_t rows = s.batch * info.num_masks * info.row_tiles;
    uint32_t seed = bytes.take<uint32_t>();
    const auto word = [&seed] { return seed = seed * 1664525u + 1013904223u; };
    if (info.block_pattern == TOKENSIEVE_BLOCKS_GIVEN) {
      for (int64_t i = 0; i < rows * info.mask_words; ++i) bits.push_back(word());
      tokensieve_block_mask_init(&mask);
      mask.bits = bits.data();
      mask.num_masks = info.num_masks;
      mask.row_tiles = info.row_tiles;
      mask.words = info.mask_words;
      inputs.block_mask = &mask;
    } else if (info.block_pattern == TOKENSIEVE_BLOCKS_SCORES) {
      for (int64_t i = 0; i < rows * ((s.seqlen_kv + 127) / 128); ++i) {
        const uint32_t any = word();
        std::memcpy(&scores.emplace_back(), &any, sizeof(any));
      }
      inputs.block_scores = scores.data();
    }
    if (info.block_pattern < TOKENSIEVE_BLOCKS_SCORES || bytes.take<uint8_t>() % 2 == 0) return;
    if (info.block_pattern == TOKENSIEVE_BLOCKS_VERTICAL_SLASH) {
      bad_sizes = blocks.slash_ratio > 0;
      for (int32_t i = 0; i < 2 * info.num_masks; ++i) {
        const int32_t size = static_cast<int32_t>(word() >> 24) - 2;
        bad_sizes = bad_sizes || size < 0 || (i % 2 == 0 && size > blocks.verticals);
        sizes.push_back(size);
      }
      inputs.block_sizes = sizes.data();
      return;
    }
    for (int32_t m = 0; m < info.num_masks; ++m) {
      thresholds.push_back(static_cast<float>(word() >> 24) / 256);
    }
    inputs.block_thresholds = thresholds.data();
  }
};

bool has_nan(const Buffer& buffer) {
  const size_t width = buffer.view.dtype == TOKENSIEVE_F32 ? 4 : 2;
  for (size_t i = 0; i + width <= buffer.bytes; i += width) {
    const uint16_t high = static_cast<uint16_t>(buffer.memory[i + width - 1] << 8 |
                                                buffer.memory[i + width - 2]);
    const uint16_t infinity = buffer.view.dtype == TOKENSIEVE_F16 ? 0x7c00 : 0x7f80;
    if ((high & 0x7fff) > infinity) return true;
  }
  return false;
}

void run_plan(Bytes& bytes, const tokensieve_shape& s, const tokensieve_blocks& settings,
              const tokensieve_plan* plan) {
  const bool layout = bytes.take<uint8_t>() & 1;
  Buffer q(s.dtype, layout, s.batch, s.seqlen_q, s.num_q_heads, s.head_dim);
  Buffer k(s.kv_dtype, !layout, s.batch, s.seqlen_kv, s.num_kv_heads, s.head_dim);
  Buffer v(s.kv_dtype, layout, s.batch, s.seqlen_kv, s.num_kv_heads, s.head_dim);
  Buffer out(s.out_dtype, layout, s.batch, s.seqlen_q, s.num_q_heads, s.head_dim);
  uint32_t seed = bytes.take<uint32_t>();
  for (Buffer* buffer : {&q, &k, &v}) buffer->fill(seed++);
  out.poison();
  // A non-finite value anywhere must not crash it either.
  const bool finite = bytes.take<uint8_t>() != 1;
  if (!finite) q.memory[bytes.take<uint32_t>() % q.bytes] = 0x7f;
  const bool disturbed = bytes.take<uint8_t>() == 1;
  if (disturbed) {
    for (Buffer* buffer : {&q, &k, &v, &out}) disturb(bytes, buffer->view);
  }
  std::unique_ptr<float[]> lse(new float[s.batch * s.num_q_heads * s.seqlen_q]);
  const size_t workspace_bytes = tokensieve_workspace_bytes(plan);
  std::unique_ptr<unsigned char[]> workspace(new unsigned char[workspace_bytes]);

  tokensieve_inputs inputs;
  tokensieve_inputs_init(&inputs);
  inputs.q = &q.view;
  inputs.k = &k.view;
  inputs.v = &v.view;
  tokensieve_plan_info info;
  tokensieve_plan_info_init(&info);
  tokensieve_plan_get_info(plan, &info, nullptr);
  const BlockInputs blocks(bytes, s, settings, info, inputs);
  // Tiles of tokens that are yet to be chosen.
  const bool premature = info.path == TOKENSIEVE_PATH_SPARSE &&
                         (inputs.block_mask != nullptr || inputs.block_scores != nullptr);
  tokensieve_outputs outputs;
  tokensieve_outputs_init(&outputs);
  outputs.out = &out.view;
  outputs.lse = lse.get();
  tokensieve_report report;
  tokensieve_report_init(&report);
  tokensieve_run_options options;
  tokensieve_run_options_init(&options);
  options.report = &report;
  tokensieve_status status;
  tokensieve_status_init(&status);
  tokensieve_run(plan, &inputs, &outputs, workspace.get(), workspace_bytes, &options, &status);
  FUZZ_REQUIRE(status.code == TOKENSIEVE_OK || status.message[0] != '\0');
  FUZZ_REQUIRE(status.code == TOKENSIEVE_OK || disturbed || premature || blocks.bad_sizes);
  if (status.code != TOKENSIEVE_OK) return;
  FUZZ_REQUIRE(!premature && !blocks.bad_sizes);
  FUZZ_REQUIRE(report.block_density >= 0.0 && report.block_density <= 1.0);
  FUZZ_REQUIRE(report.keep_ratio >= 0.0 && report.keep_ratio <= 1.0);
  FUZZ_REQUIRE(report.products == info.products && report.products != 0);
  if (finite && s.sm_scale == 0.0f && s.softcap == 0.0f) FUZZ_REQUIRE(!has_nan(out));
}

bool small(const tokensieve_shape& s, const tokensieve_plan* plan) {
  return s.batch <= 4 && s.seqlen_kv <= 256 && s.num_q_heads <= 16 && s.head_dim <= 64 &&
         tokensieve_workspace_bytes(plan) <= (size_t{1} << 27);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  const tokensieve_shape shape = take_shape(bytes);
  const tokensieve_select select = take_select(bytes);
  tokensieve_options options;
  tokensieve_options_init(&options);
  options.backend = bytes.odd_or<int32_t>(static_cast<int32_t>(bytes.range(1, 2)));
  // All kinds of products without a byte of the input, so that older corpora mean what they did.
  const bool emulated = shape.seqlen_kv & 4;
  options.products = static_cast<int32_t>(shape.seqlen_kv & 3);
  options.isa = bytes.odd_or<int32_t>(emulated ? TOKENSIEVE_ISA_AMX_EMULATED : 0);
  options.num_threads = bytes.odd_or<int32_t>(1);
  const tokensieve_blocks blocks = take_blocks(bytes);
  tokensieve_status status;
  tokensieve_status_init(&status);
  tokensieve_plan* plan = nullptr;
  tokensieve_make_plan_with_blocks(&shape, &select, &blocks, &options, &plan, &status);
  FUZZ_REQUIRE((status.code == TOKENSIEVE_OK) == (plan != nullptr));
  FUZZ_REQUIRE((status.code == TOKENSIEVE_OK) == (status.message[0] == '\0'));
  FUZZ_REQUIRE(status.code != TOKENSIEVE_INTERNAL);
  if (plan != nullptr && small(shape, plan)) run_plan(bytes, shape, blocks, plan);
  tokensieve_plan_free(plan);
  return 0;
}
