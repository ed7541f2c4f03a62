// Stage estimate on the device, against the oracle's masks; against itself: other memory, graphs,
// the masks that a run leaves behind, and attention under the same masks when they are given.
#include <algorithm>
#include <cmath>
#include <optional>

#include "core/tiles.h"
#include "cuda/backend_cases.h"
#include "cuda/backend_test.h"
#include "cuda/checks.h"
#include "cuda/device_case.h"
#include "cuda/layout.h"
#include "support/case_data.h"

namespace tokensieve::cuda::test {
namespace {

using tokensieve::test::AttentionCase;
using tokensieve::test::Content;
using tokensieve::test::make_data;
using tokensieve::test::self_attention;
using tokensieve::test::suffix_attention;

struct EstimateCase {
  AttentionCase tensors;
  BlockConfig blocks;
  std::vector<float> thresholds;  // of each mask, or none
  double most_different;  // share of the tiles that may differ from the oracle's
};

// Dense plans choose tiles of all tokens, sparse ones of the tokens that the device chose.
class EstimateTest {
 public:
  EstimateTest(Runner& runner, const EstimateCase& c, const Plan& plan)
      : runner_(runner),
        c_(c),
        name_("estimate/" + c.tensors.name),
        plan_(plan),
        data_(make_data(c.tensors, 77)),
        device_(plan, data_),
        thresholds_(c.thresholds),
        mask_(static_cast<size_t>(plan.shape.batch * plan.num_masks * plan.row_tiles *
                                  plan.mask_words) *
              sizeof(uint32_t)) {}

  void run() {
    if (plan_.path == Path::kSparse) {
      check("select", device_.select(sets_).message());
      given_.emplace(plan_, sets_);
    }
    std::vector<uint32_t> first, second;
    if (!estimate(0xff, first)) return;
    if (estimate(0x7f, second)) check("rerun", first == second ? "" : "other bits");
    check_oracle(first);
    run_graph(first);
    run_attend(first);
  }

 private:
  void check(const char* what, const std::string& problem) {
    runner_.check(name_ + "/" + what, problem);
  }
  AttentionInputs inputs() const {
    AttentionInputs in = device_.inputs();
    if (given_) in.keep = given_->view();
    in.block_thresholds = thresholds_.as<float>();
    return in;
  }
  BlockMask device_mask() const {
    return {mask_.as<uint32_t>(), plan_.row_tiles, plan_.mask_words, plan_.num_masks};
  }
  Status enqueue() {
    return estimate_blocks(plan_, inputs(), device_mask(), device_.workspace(),
                           {.stream = device_.stream()});
  }
  bool estimate(int poison, std::vector<uint32_t>& bits) {
    device_.poison(poison);
    mask_.fill(poison);
    cudaDeviceSynchronize();
    Status status = enqueue();
    if (status.ok()) status = device_.wait();
    check("run", status.message());
    bits = mask_.read<uint32_t>();
    return status.ok();
  }

  void check_oracle(std::vector<uint32_t>& bits) {
    AttentionShape shape = plan_.shape;
    const Result<Plan> plan = make_plan(shape, c_.tensors.select, c_.blocks,
                                        {.backend = Backend::kRef});
    if (!plan.ok()) return check("oracle", plan.status().message());
    std::vector<uint32_t> expected(bits.size());
    AttentionInputs in = data_.inputs();
    if (!c_.thresholds.empty()) in.block_thresholds = c_.thresholds.data();
    std::vector<int32_t> indices;
    const int64_t capacity = plan->keep_capacity();
    if (plan_.path == Path::kSparse) {
      indices.assign(static_cast<size_t>(shape.batch * plan->num_sets * capacity), -1);
      for (size_t b = 0; b < sets_.kept.size(); ++b) {
        for (size_t set = 0; set < sets_.kept[b].size(); ++set) {
          std::copy(sets_.kept[b][set].begin(), sets_.kept[b][set].end(),
                    indices.begin() + (static_cast<int64_t>(b) * plan->num_sets +
                                       static_cast<int64_t>(set)) *
                                          capacity);
        }
      }
      in.keep = {indices.data(), capacity, sets_.count.data()};
    }
    const BlockMask want = {expected.data(), plan->row_tiles, plan->mask_words, plan->num_masks};
    std::vector<std::byte> workspace(workspace_bytes(*plan));
    const Status status = tokensieve::estimate_blocks(*plan, in, want, workspace, {});
    if (!status.ok()) return check("oracle", status.message());
    check("oracle", compare(bits, want));
  }

  TileGrid grid(int64_t b, int64_t mask) const {
    std::span<const int32_t> kept;
    if (plan_.path == Path::kSparse && !sets_.kept[b].empty()) {
      kept = sets_.kept[b][mask * plan_.num_sets / plan_.num_masks];
    }
    return tile_grid(plan_, kept);
  }

  // Tiles with a visible pair.
  std::string compare(std::vector<uint32_t>& bits, const BlockMask& want) const {
    BlockMask got = want;
    got.bits = bits.data();
    int64_t different = 0, visited = 0, tiles = 0;
    std::string where;
    for (int64_t b = 0; b < plan_.shape.batch; ++b) {
      for (int64_t m = 0; m < plan_.num_masks; ++m) {
        const TileGrid tile = grid(b, m);
        for (int64_t t = 0; t < tile.row_tiles(); ++t) {
          for (int64_t c = 0; c < tile.end(t); ++c) {
            const bool expected = mask_rows(want, b, m).get(t, c);
            visited += expected;
            ++tiles;
            if (mask_rows(got, b, m).get(t, c) == expected) continue;
            ++different;
            where = text("sequence ", b, " mask ", m, " tile ", t, ", ", c);
          }
        }
      }
    }
    const auto most =
        static_cast<int64_t>(std::ceil(c_.most_different * static_cast<double>(tiles)));
    if (different <= most) return "";
    return text(different, " of ", tiles, " tiles differ (", visited, " are visited), the last: ",
                where);
  }

  void run_graph(const std::vector<uint32_t>& expected) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal);
    check("capture", enqueue().message());
    cudaStreamEndCapture(device_.stream(), &graph);
    cudaError_t error = cudaGraphInstantiate(&replay, graph, 0);
    device_.poison(0xff);
    mask_.fill(0);
    cudaDeviceSynchronize();
    for (int i = 0; i < 2 && error == cudaSuccess; ++i) {
      error = cudaGraphLaunch(replay, device_.stream());
    }
    if (error == cudaSuccess) error = cudaStreamSynchronize(device_.stream());
    check("replay", error != cudaSuccess                   ? cudaGetErrorString(error)
                    : mask_.read<uint32_t>() == expected ? ""
                                                           : "other bits");
    if (replay != nullptr) cudaGraphExecDestroy(replay);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }

  // A run that chooses its tokens and tiles gives what it gives with both given.
  void run_attend(const std::vector<uint32_t>& bits) {
    if (!c_.thresholds.empty()) return;
    check("attend", device_.run().message());
    const auto out = device_.out_bits();
    const Result<Device> device = current_device();
    if (!device.ok()) return;
    const cuda::Layout layout =
        make_layout(plan_, device->num_multiprocessors, device_.workspace().data());
    std::vector<uint32_t> left(bits.size());
    cudaMemcpy(left.data(), layout.block_bits, left.size() * sizeof(uint32_t),
               cudaMemcpyDeviceToHost);
    check("bits of a run", left == bits ? "" : "not those of estimate_blocks");
    BlockConfig blocks = c_.blocks;
    blocks.pattern = BlockPattern::kGiven;
    const Result<Plan> plan =
        make_plan(plan_.shape, c_.tensors.select, blocks, {.backend = Backend::kCuda});
    if (!plan.ok()) return check("given", plan.status().message());
    const DeviceBuffer workspace(workspace_bytes(*plan)), given(bits);
    AttentionInputs in = inputs();
    in.block_mask = {given.as<uint32_t>(), plan->row_tiles, plan->mask_words, plan->num_masks};
    device_.poison(0xff);
    Status status =
        tokensieve::run(*plan, in, device_.outputs(), {workspace.data(), workspace.bytes()},
                        {.stream = device_.stream()});
    if (status.ok()) status = device_.wait();
    check("given", !status.ok()                 ? status.message()
                   : device_.out_bits() == out ? ""
                                                : "attends to other tiles than estimated");
  }

  Runner& runner_;
  const EstimateCase& c_;
  const std::string name_;
  const Plan& plan_;
  CaseData data_;
  DeviceCase device_;
  DeviceBuffer thresholds_, mask_;
  DeviceSets sets_;
  std::optional<GivenSets> given_;
};

// Packed sequences leave the masks that each leaves alone.
void test_packed(Runner& runner, const BlockConfig& blocks, int32_t dim) {
  const std::string name =
      text("estimate/packed_", static_cast<int>(blocks.pattern), "_d", dim);
  const std::vector<int32_t> queries = {640, 130, 777, 1}, tokens = {640, 901, 777, 300};
  AttentionCase all = {.name = name, .shape = self_attention(0, 4, 2, dim)};
  std::vector<int32_t> begin_q = {0}, begin_kv = {0};
  for (size_t b = 0; b < tokens.size(); ++b) {
    begin_q.push_back(begin_q.back() + queries[b]);
    begin_kv.push_back(begin_kv.back() + tokens[b]);
  }
  set_dtype(all.shape, DType::kBF16);
  all.shape.seqlen_q = begin_q.back();
  all.shape.seqlen_kv = begin_kv.back();
  CaseData data = make_data(all, 5);
  const Result<Device> device = current_device();
  if (!device.ok()) return;
  const SelectConfig select = {.enabled = false, .dense_policy = DensePolicy::kNever};
  AttentionShape shape = all.shape;
  const auto masks = [&](const Plan& plan, const AttentionInputs& in, const TensorView& out,
                         std::vector<uint32_t>& bits) -> std::string {
    DeviceBuffer workspace(workspace_bytes(plan));
    workspace.fill(0xff);
    cudaDeviceSynchronize();
    const Status status =
        tokensieve::run(plan, in, {.out = out}, {workspace.data(), workspace.bytes()});
    if (!status.ok()) return status.message();
    const cudaError_t error = cudaDeviceSynchronize();
    if (error != cudaSuccess) return cudaGetErrorString(error);
    bits.resize(static_cast<size_t>(plan.shape.batch * plan.num_masks * plan.row_tiles *
                                    plan.mask_words));
    const cuda::Layout layout = make_layout(plan, device->num_multiprocessors, workspace.data());
    cudaMemcpy(bits.data(), layout.block_bits, bits.size() * sizeof(uint32_t),
               cudaMemcpyDeviceToHost);
    return "";
  };
  const DeviceTensor q(data.q.view()), k(data.k.view()), v(data.v.view()), out(data.out.view());
  const DeviceBuffer cu_q(begin_q), cu_kv(begin_kv);
  shape.packed = true;
  shape.batch = static_cast<int64_t>(tokens.size());
  shape.seqlen_q = *std::max_element(queries.begin(), queries.end());
  shape.seqlen_kv = *std::max_element(tokens.begin(), tokens.end());
  const Result<Plan> plan = make_plan(shape, select, blocks, {.backend = Backend::kCuda});
  if (!plan.ok()) return runner.check(name, plan.status().message());
  std::vector<uint32_t> packed;
  AttentionInputs in = {.q = q.view(), .k = k.view(), .v = v.view()};
  in.cu_seqlens_q = cu_q.as<int32_t>();
  in.cu_seqlens_kv = cu_kv.as<int32_t>();
  runner.check(name + "/run", masks(*plan, in, out.view(), packed));
  for (size_t b = 0; b < tokens.size() && !packed.empty(); ++b) {
    AttentionShape own = all.shape;
    own.seqlen_q = queries[b];
    own.seqlen_kv = tokens[b];
    const Result<Plan> one = make_plan(own, select, blocks, {.backend = Backend::kCuda});
    const auto rows = [&](TensorView x, int64_t begin, int64_t count) {
      x.data = static_cast<uint16_t*>(x.data) + begin * x.strides[1];
      x.shape[1] = count;
      return x;
    };
    std::vector<uint32_t> alone;
    const std::string problem =
        masks(*one, {.q = rows(q.view(), begin_q[b], queries[b]),
                     .k = rows(k.view(), begin_kv[b], tokens[b]),
                     .v = rows(v.view(), begin_kv[b], tokens[b])},
              rows(out.view(), begin_q[b], queries[b]), alone);
    if (!problem.empty()) return runner.check(name, problem);
    const BlockMask from = {packed.data(), plan->row_tiles, plan->mask_words, plan->num_masks};
    const BlockMask want = {alone.data(), one->row_tiles, one->mask_words, one->num_masks};
    const TileGrid grid = tile_grid(*one, {});
    bool same = true;
    for (int64_t m = 0; m < plan->num_masks; ++m) {
      for (int64_t t = 0; t < grid.row_tiles(); ++t) {
        for (int64_t c = 0; c < grid.end(t); ++c) {
          same = same && mask_rows(from, static_cast<int64_t>(b), m).get(t, c) ==
                             mask_rows(want, 0, m).get(t, c);
        }
      }
    }
    runner.check(text(name, "/sequence ", b), same ? "" : "other tiles than alone");
  }
}

BlockConfig pattern(BlockPattern pattern) {
  BlockConfig blocks = {.pattern = pattern};
  blocks.min_budget = 128;
  return blocks;
}

std::vector<BlockConfig> configs() {
  std::vector<BlockConfig> all;
  for (const double tau : {0.0, 2.0}) {
    for (const double gamma : {0.6, 0.95}) {
      BlockConfig flex = pattern(BlockPattern::kFlex);
      flex.flex_tau = tau;
      flex.gamma = gamma;
      all.push_back(flex);
    }
  }
  for (const Share share : {Share::kHead, Share::kKv, Share::kLayer}) {
    BlockConfig pooled = pattern(BlockPattern::kPooled);
    pooled.share = share;
    pooled.alpha = 0.5;
    pooled.window_tiles = 1;
    all.push_back(pooled);
  }
  for (const int stride : {8, 16, 32}) {
    BlockConfig antidiagonal = pattern(BlockPattern::kAntidiagonal);
    antidiagonal.stride = stride;
    antidiagonal.threshold = stride == 8 ? 0.5 : 0.9;
    all.push_back(antidiagonal);
  }
  return all;
}

std::vector<AttentionCase> shapes() {
  std::vector<AttentionCase> all;
  const auto add = [&](const char* name, const AttentionShape& shape, DType dtype,
                       const SelectConfig& select, auto change) {
    AttentionCase c = {.name = name, .shape = shape, .select = select};
    c.select.dense_policy = DensePolicy::kNever;
    set_dtype(c.shape, dtype);
    change(c);
    all.push_back(c);
  };
  const auto nothing = [](AttentionCase&) {};
  const SelectConfig off = {.enabled = false};
  constexpr DType kF16 = DType::kF16, kBF16 = DType::kBF16;
  add("n1", self_attention(1, 2, 1, 64), kBF16, off, nothing);
  add("n127", self_attention(127, 2, 1, 128), kF16, off, nothing);
  add("n257", self_attention(257, 4, 1, 256), kBF16, off, nothing);
  add("n1024", self_attention(1024, 4, 2, 128), kBF16, off, nothing);
  add("n1151_d64", self_attention(1151, 6, 2, 64), kF16, off, nothing);
  add("n2049_d256", self_attention(2049, 2, 1, 256), kF16, off, nothing);
  add("n4500", self_attention(4500, 2, 2, 128), kBF16, off, nothing);
  add("batch3", self_attention(700, 4, 2, 128), kBF16, off,
      [](AttentionCase& c) { c.shape.batch = 3; });
  add("suffix", suffix_attention(333, 1300, 4, 2, 128), kBF16, off, nothing);
  add("suffix_few_rows", suffix_attention(100, 1111, 4, 2, 64), kBF16, off, nothing);
  add("ties", self_attention(900, 4, 2, 128), kBF16, off,
      [](AttentionCase& c) { c.content = Content::kTies; });
  add("nan_in_k", self_attention(900, 4, 2, 128), kBF16, off,
      [](AttentionCase& c) { c.content = Content::kNanInK; });
  add("nan_in_q", self_attention(900, 4, 2, 64), kBF16, off,
      [](AttentionCase& c) { c.content = Content::kNanInQ; });
  for (const Share sets : {Share::kHead, Share::kKv, Share::kLayer}) {
    for (const Fill fill : {Fill::kZero, Fill::kLocal}) {
      SelectConfig select = matrix_select(fill, sets, BudgetPolicy::kKeepCount, 0);
      select.keep_count = 900;
      select.min_keep = 0;
      const int64_t queries = fill == Fill::kLocal && sets != Share::kLayer ? 777 : 2000;
      add(fill == Fill::kZero ? "kept" : "kept_local",
          suffix_attention(queries, 2000, 4, 2, sets == Share::kKv ? 64 : 128), kBF16, select,
          [&](AttentionCase& c) { c.name += text("_", static_cast<int>(sets)); });
    }
  }
  return all;
}

// A tile at its threshold may go either way: means are of 16 bits, sums of f32, and in a map one
// tile's place is another's. Equal products leave no room.
double most_different(const AttentionCase& c, const BlockConfig& blocks) {
  const bool flex = blocks.pattern == BlockPattern::kFlex;
  if (c.content == Content::kTies) return 0.0;
  if (flex && blocks.flex_tau > 0) return 0.05;
  return blocks.pattern == BlockPattern::kAntidiagonal ? 0.01 : 0.02;
}

}  // namespace

void test_estimates(Runner& runner, const char* filter) {
  int turn = 0;
  for (const BlockConfig& blocks : configs()) {
    ++turn;
    for (const AttentionCase& shape : shapes()) {
      // The sums of distances have different orders: equal ones come apart.
      if (shape.content == Content::kTies && blocks.pattern == BlockPattern::kFlex) continue;
      EstimateCase c = {shape, blocks, {}, most_different(shape, blocks)};
      if (shape.name == "batch3") c.blocks.dense_rows = 150;
      c.tensors.name = text(shape.name, "_", turn, "_pattern", static_cast<int>(blocks.pattern));
      if (filter != nullptr && c.tensors.name.find(filter) == std::string::npos) continue;
      const Result<Plan> plan =
          make_plan(shape.shape, shape.select, c.blocks, {.backend = Backend::kCuda});
      if (!plan.ok()) {
        runner.check("estimate/" + c.tensors.name, plan.status().message());
        continue;
      }
      EstimateTest(runner, c, *plan).run();
      if (shape.name != "suffix") continue;
      c.tensors.name += "_thresholds";
      for (int32_t m = 0; m < plan->num_masks; ++m) c.thresholds.push_back(0.3f + 0.2f * m);
      EstimateTest(runner, c, *plan).run();
    }
    if (filter == nullptr) test_packed(runner, blocks, turn % 2 == 0 ? 64 : 128);
  }
  AttentionShape longest = self_attention(2097153, 1, 1, 64);
  set_dtype(longest, DType::kBF16);
  const SelectConfig off = {.enabled = false, .dense_policy = DensePolicy::kNever};
  const auto refused = [&](BlockPattern which) {
    const Status status =
        make_plan(longest, off, pattern(which), {.backend = Backend::kCuda}).status();
    return status.code() == StatusCode::kUnsupported;
  };
  runner.check("estimate/too long", refused(BlockPattern::kPooled) && refused(BlockPattern::kFlex)
                                        ? "" : "not refused");
}

}  // namespace tokensieve::cuda::test
