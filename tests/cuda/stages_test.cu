// Each stage against a plain reference in double on generated inputs. Memory starts as NaN, inputs
// have NaN gaps between rows, everything runs twice and must give the same bits.
#include "cuda/stages_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>

#include "core/budget.h"
#include "cuda/device.h"
#include "cuda/select/select.h"
#include "cuda/rows/rows.h"
#include "cuda/select/scratch.h"
#include "cuda/sm90/score/score.h"

namespace tokensieve::cuda::test {
namespace {

struct Case {
  const char* name;
  bool bf16 = true;
  int dim = 128;
  int q_heads = 8;
  int kv_heads = 2;
  int batch = 1;
  int seqlen = 2048;  // of keys; packed: of the longest sequence
  int queries = 0;    // 0: as many as keys
  int window = 128;
  int suffix = 0;     // 0: the window
  Share share = Share::kHead;
  SelectConfig select = {};
  float q_scale = 3.0f;
  float softcap = 0.0f;
  bool sinks = false;
  bool packed = false;
  int pad = 0;
  float poison_key = -1.0f;  // >= 0: NaN in K at this share of the sequence
};

SelectConfig config(BudgetPolicy budget, double value, int pool = 7, int64_t min_keep = 64,
                    int protect = 0, Arithmetic arithmetic = Arithmetic::kFp32) {
  SelectConfig select;
  select.budget = budget;
  select.tau = value;
  select.keep_ratio = value;
  select.keep_count = static_cast<int64_t>(value);
  select.pool_width = pool;
  select.min_keep = min_keep;
  select.protect_first = protect;
  select.arithmetic = arithmetic;
  return select;
}
constexpr auto kTau = BudgetPolicy::kTau;
constexpr auto kRatio = BudgetPolicy::kKeepRatio;
constexpr auto kCount = BudgetPolicy::kKeepCount;
constexpr auto kRounded = Arithmetic::kReferenceRounding;

int num_sets(const Case& c) {
  return c.share == Share::kHead ? c.q_heads : c.share == Share::kKv ? c.kv_heads : 1;
}

// All memory and parameters of a case.
struct Setup {
  Case c;
  int64_t total_q, total_kv, axes;  // rows of q, k and their batch axis
  std::vector<int32_t> cu_q, cu_kv;
  std::unique_ptr<Buffer> q, k, v, cu_q_device, cu_kv_device, sinks, stats, score, mean, ranked,
      scratch, indices, mask, rank, count, public_count, counters, compact_k, compact_v, scattered;
  ScoreParams score_params = {};
  SelectParams select_params = {};
  CompactParams compact_params = {};

  explicit Setup(const Case& which) : c(which) {
    if (c.queries == 0) c.queries = c.seqlen;
    if (c.suffix == 0) c.suffix = c.window;
    cu_q = cu_kv = {0};
    for (int b = 0; b < c.batch; ++b) {
      cu_q.push_back(cu_q.back() + queries(b));
      cu_kv.push_back(cu_kv.back() + keys(b));
    }
    axes = c.packed ? 1 : c.batch;
    total_q = c.packed ? cu_q.back() : c.queries;
    total_kv = c.packed ? cu_kv.back() : c.seqlen;
    allocate();
    fill_inputs();
    make_params();
  }

  // Packed sequences get shorter one by one.
  int keys(int b) const { return c.packed ? c.seqlen - b * (c.seqlen / 3 + 5) : c.seqlen; }
  int queries(int b) const { return c.packed ? keys(b) - (c.seqlen - c.queries) : c.queries; }
  int prefix(int b) const { return std::max(0, keys(b) - c.suffix); }
  int64_t stride() const { return (std::max(1, c.seqlen - c.suffix) + 3) / 4 * 4; }
  int64_t capacity() const {
    return (static_cast<int64_t>(c.seqlen) + kTileKv - 1) / kTileKv * kTileKv;
  }
  Element element() const { return c.bf16 ? Element::kBF16 : Element::kF16; }
  int words() const { return (c.seqlen + 31) / 32; }
  int compact_heads() const { return c.share == Share::kHead ? c.q_heads : c.kv_heads; }

  static std::unique_ptr<Buffer> make(int64_t bytes) {
    return std::make_unique<Buffer>(static_cast<size_t>(bytes));
  }
  void allocate() {
    const int64_t sets = static_cast<int64_t>(c.batch) * num_sets(c);
    q = make(tensor_bytes(axes, total_q, c.q_heads, c.dim, c.pad));
    k = make(tensor_bytes(axes, total_kv, c.kv_heads, c.dim, c.pad));
    v = make(tensor_bytes(axes, total_kv, c.kv_heads, c.dim, c.pad));
    score = make(4 * c.batch * c.q_heads * stride());
    mean = make(4 * c.batch * stride());
    ranked = make(4 * sets * stride());
    indices = make(4 * sets * capacity());
    mask = make(4 * sets * words());
    rank = make(4 * sets * words());
    count = make(4 * c.batch);
    public_count = make(8 * c.batch);
    counters = make(4 * kTileCounters);
    compact_k = make(tensor_bytes(c.batch, capacity(), compact_heads(), c.dim, 0));
    compact_v = make(tensor_bytes(c.batch, capacity(), compact_heads(), c.dim, 0));
    cu_q_device = make(4 * (c.batch + 1));
    cu_kv_device = make(4 * (c.batch + 1));
    cu_q_device->write(cu_q);
    cu_kv_device->write(cu_kv);
    sinks = make(4 * c.q_heads);
    std::vector<float> logits(c.q_heads);
    for (int h = 0; h < c.q_heads; ++h) logits[h] = 2.0f + 0.5f * (h % 5);
    sinks->write(logits);
  }
  void fill_inputs() {
    fill(make_tensor(*q, total_q, c.q_heads, c.dim, c.pad), axes, total_q, c.q_heads, c.dim,
         c.bf16, c.q_scale, 1);
    fill(make_tensor(*k, total_kv, c.kv_heads, c.dim, c.pad), axes, total_kv, c.kv_heads, c.dim,
         c.bf16, 1.0f, 2);
    fill(make_tensor(*v, total_kv, c.kv_heads, c.dim, c.pad), axes, total_kv, c.kv_heads, c.dim,
         c.bf16, 1.0f, 3);
    if (c.poison_key >= 0.0f) {
      const Tensor x = make_tensor(*k, total_kv, c.kv_heads, c.dim, c.pad);
      const int64_t row = static_cast<int64_t>(c.poison_key * static_cast<float>(c.seqlen - 1));
      CUDA_CHECK(cudaMemset(static_cast<char*>(x.data) + 2 * row * x.seq_stride, 0xff, 2));
    }
  }
  void make_params() {
    Sequences sequences = {c.batch, c.queries, c.seqlen, static_cast<int32_t>(total_kv), nullptr,
                           nullptr};
    if (c.packed) {
      sequences.cu_seqlens_q = cu_q_device->as<int32_t>();
      sequences.cu_seqlens_kv = cu_kv_device->as<int32_t>();
    }
    int multiprocessors = 0;
    CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    ScoreParams& s = score_params;
    s.sequences = sequences;
    s.heads = {c.q_heads, c.kv_heads};
    s.softmax = {1.0f / std::sqrt(static_cast<float>(c.dim)), c.softcap,
                 c.sinks ? sinks->as<float>() : nullptr};
    s.q = make_tensor(*q, total_q, c.q_heads, c.dim, c.pad);
    s.obs_window = c.window;
    s.suffix = c.suffix;
    s.token_score = score->as<float>();
    s.prefix_stride = stride();
    s.score_batch_stride = c.q_heads * stride();
    const int rows = c.batch * c.kv_heads;
    s.splits = std::min(rows < multiprocessors ? multiprocessors / rows : 1,
                        (c.seqlen + kTileKv - 1) / kTileKv);
    stats = make(8ll * s.splits * c.batch * c.q_heads * c.window);
    s.split_stats = stats->as<float2>();
    s.k = make_tensor(*k, total_kv, c.kv_heads, c.dim, c.pad);

    const Selection selection = {indices->as<int32_t>(), mask->as<uint32_t>(),
                                 rank->as<uint32_t>(),   count->as<int32_t>(),
                                 num_sets(c),            static_cast<int32_t>(capacity()),
                                 words()};
    SelectParams& p = select_params;
    p.sequences = sequences;
    p.layer_heads = c.q_heads;
    p.heads_per_set = c.q_heads / num_sets(c);
    p.token_score = s.token_score;
    p.prefix_stride = stride();
    p.suffix = c.suffix;
    p.rule.budget = c.select.budget;
    p.tau = c.select.tau;
    p.rule.keep_ratio = c.select.keep_ratio;
    p.rule.keep_count = c.select.keep_count;
    p.rule.min_keep = c.select.min_keep;
    p.rule.protect_first = c.select.protect_first;
    p.pool_width = c.select.pool_width;
    p.arithmetic = c.select.arithmetic;
    p.rule.keep_limit = 1.0 - c.select.min_drop;
    p.mean = mean->as<float>();
    p.ranked = ranked->as<float>();
    p.selection = selection;
    p.rule.capacity = selection.capacity;
    p.num_multiprocessors = multiprocessors;
    p.public_count = public_count->as<int64_t>();
    p.tile_counters = counters->as<int32_t>();
    scratch = make(static_cast<int64_t>(select_scratch_bytes(p)));
    p.scratch = scratch->as<void>();

    CompactParams& m = compact_params;
    m.sequences = sequences;
    m.selection = selection;
    m.k = make_tensor(*k, total_kv, c.kv_heads, c.dim, c.pad);
    m.v = make_tensor(*v, total_kv, c.kv_heads, c.dim, c.pad);
    m.compact_k = make_tensor(*compact_k, capacity(), compact_heads(), c.dim, 0);
    m.compact_v = make_tensor(*compact_v, capacity(), compact_heads(), c.dim, 0);
    m.num_kv_heads = c.kv_heads;
    m.compact_heads = compact_heads();
  }

  void run_score(cudaStream_t stream) {
    const Status status = sm90::score(score_params, element(), c.dim, stream);
    if (!status.ok()) std::printf("%s\n", status.message()), std::exit(2);
  }
  void run_select(cudaStream_t stream) { CUDA_CHECK(cuda::select(select_params, stream)); }
  void run_compact(cudaStream_t stream) {
    CUDA_CHECK(compact_kv(compact_params, element(), c.dim, stream));
  }
  void poison() {
    for (Buffer* buffer :
         {score.get(), mean.get(), ranked.get(), scratch.get(), stats.get(), indices.get(),
          mask.get(), rank.get(), count.get(), public_count.get(), counters.get(),
          compact_k.get(), compact_v.get()}) {
      buffer->poison();
    }
  }
  void run_all() {
    poison();
    run_score(nullptr);
    run_select(nullptr);
    run_compact(nullptr);
    CUDA_CHECK(cudaDeviceSynchronize());
  }
};

// ---- reference of score: double, on the device -------------------------------------------------
template <typename Element>
__global__ void logits_kernel(ScoreParams p, Tensor k, int axis, int64_t q_row, int64_t kv_row,
                              int seqlen_q, int seqlen_kv, int head, int dim, double* logits) {
  const int key = blockIdx.x * blockDim.x + threadIdx.x;
  const int row = blockIdx.y;
  if (key >= seqlen_kv) return;
  const int query = seqlen_q - p.obs_window + row;
  const int kv_head = head * p.heads.num_kv_heads / p.heads.num_q_heads;
  const Element* a = static_cast<const Element*>(p.q.data) + axis * p.q.batch_stride +
                     (q_row + query) * p.q.seq_stride + head * p.q.head_stride;
  const Element* b = static_cast<const Element*>(k.data) + axis * k.batch_stride +
                     (kv_row + key) * k.seq_stride + kv_head * k.head_stride;
  double sum = 0.0;
  for (int d = 0; d < dim; ++d) {
    sum += static_cast<double>(static_cast<float>(a[d])) *
           static_cast<double>(static_cast<float>(b[d]));
  }
  sum *= p.softmax.sm_scale;
  if (p.softmax.softcap > 0.0f) sum = p.softmax.softcap * tanh(sum / p.softmax.softcap);
  const bool visible = key <= seqlen_kv - p.obs_window + row;
  logits[static_cast<int64_t>(row) * seqlen_kv + key] = visible ? sum : -INFINITY;
}
__global__ void row_sum_kernel(ScoreParams p, int head, int seqlen_kv, const double* logits,
                               double* sums) {
  __shared__ double parts[256];
  const double* row = logits + static_cast<int64_t>(blockIdx.x) * seqlen_kv;
  double sum = 0.0;
  for (int j = threadIdx.x; j < seqlen_kv; j += 256) sum += exp(row[j]);
  parts[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sum = p.softmax.sink_mass ? exp(static_cast<double>(p.softmax.sink_mass[head])) : 0.0;
  for (double part : parts) sum += part;
  sums[blockIdx.x] = sum;
}
__global__ void column_mean_kernel(ScoreParams p, int seqlen_kv, int prefix_len,
                                   const double* logits, const double* sums, double* mean) {
  const int key = blockIdx.x * blockDim.x + threadIdx.x;
  if (key >= prefix_len) return;
  double sum = 0.0;
  for (int row = 0; row < p.obs_window; ++row) {
    sum += exp(logits[static_cast<int64_t>(row) * seqlen_kv + key]) / sums[row];
  }
  mean[key] = sum / p.obs_window;
}

// Largest |got - want| / (want + mean of the row).
double score_error(Setup& setup) {
  const Case& c = setup.c;
  const std::vector<float> got = setup.score->read<float>();
  Buffer logits(8ll * c.window * c.seqlen), sums(8 * c.window), mean(8ll * c.seqlen);
  double worst = 0.0;
  for (int b = 0; b < c.batch; ++b) {
    const int prefix = setup.prefix(b);
    const int keys = setup.keys(b);
    const int head_step = c.seqlen > 8000 ? 5 : 1;
    for (int head = 0; head < c.q_heads; head += head_step) {
      const dim3 grid((keys + 127) / 128, c.window);
      const int axis = c.packed ? 0 : b;
      const int64_t q_row = c.packed ? setup.cu_q[b] : 0;
      const int64_t kv_row = c.packed ? setup.cu_kv[b] : 0;
      const auto kernel = c.bf16 ? logits_kernel<__nv_bfloat16> : logits_kernel<__half>;
      kernel<<<grid, 128>>>(setup.score_params, setup.compact_params.k, axis, q_row, kv_row,
                            setup.queries(b), keys, head, c.dim, logits.as<double>());
      row_sum_kernel<<<c.window, 256>>>(setup.score_params, head, keys, logits.as<double>(),
                                        sums.as<double>());
      column_mean_kernel<<<(prefix + 127) / 128, 128>>>(setup.score_params, keys, prefix,
                                                        logits.as<double>(), sums.as<double>(),
                                                        mean.as<double>());
      const std::vector<double> want = mean.read<double>();
      const double level = std::accumulate(want.begin(), want.begin() + prefix, 0.0) / prefix;
      const float* row = &got[(static_cast<int64_t>(b) * c.q_heads + head) * setup.stride()];
      for (int j = 0; j < prefix; ++j) {
        const double error = std::fabs(row[j] - want[j]) / (want[j] + level);
        if (!(error <= worst)) worst = error;
      }
    }
  }
  return worst;
}

// ---- reference of select: core/budget on the device's own scores --------------------------------
struct Expected {
  int64_t count;
  std::vector<std::vector<int32_t>> sets;
};

double exact_sum(const std::vector<double>& x) {
  double sum = 0.0;
  for (double value : x) sum += value;
  return sum;
}

// bf16(x / bf16(bf16(sum) + 1e-8)) with an exact sum.
void normalise(std::vector<double>& x) {
  const float divisor =
      round_bf16(round_bf16(static_cast<float>(exact_sum(x))) + 1e-8f);
  for (double& value : x) value = round_bf16(static_cast<float>(value) / divisor);
}

int64_t exact_drop(std::vector<double> mean, const SelectConfig& select) {
  double limit = select.tau;
  if (select.arithmetic == kRounded) {
    normalise(mean);
    limit = static_cast<float>(select.tau);
  } else {
    limit *= exact_sum(mean) + 1e-8;
  }
  std::sort(mean.begin(), mean.end());
  double running = 0.0;
  int64_t drop = 0;
  for (double value : mean) {
    running += value;
    if (!(running < limit)) break;
    ++drop;
  }
  return drop == 0 ? 0 : drop + 1;
}

Expected expected_selection(const Setup& setup, int b, const std::vector<float>& score,
                            int64_t* core_drop_difference) {
  const Case& c = setup.c;
  const SelectConfig& select = c.select;
  const int64_t prefix = setup.prefix(b);
  const int64_t dense = setup.keys(b);
  if (prefix == 0) return {dense, {}};
  std::vector<float> pooled(c.q_heads * prefix);
  for (int h = 0; h < c.q_heads; ++h) {
    const float* row = &score[(static_cast<int64_t>(b) * c.q_heads + h) * setup.stride()];
    if (!all_finite({row, static_cast<size_t>(prefix)})) return {dense, {}};
    smooth({row, static_cast<size_t>(prefix)}, select.pool_width, select.arithmetic,
           {&pooled[h * prefix], static_cast<size_t>(prefix)});
  }
  std::vector<double> mean(prefix);
  mean_rows(pooled.data(), c.q_heads, prefix, select.arithmetic, mean);
  int64_t drop = 0;
  if (select.budget == kTau) {
    drop = exact_drop(mean, select);
    std::vector<double> copy = mean;
    *core_drop_difference = std::max<int64_t>(
        *core_drop_difference, std::llabs(drop_count(copy, select.tau, select.arithmetic) - drop));
  }
  const int64_t keep = keep_count(select, prefix, drop);
  if (keep >= prefix || keep > std::floor((1.0 - select.min_drop) * prefix)) return {dense, {}};
  Expected result = {keep + c.suffix, {}};
  const int sets = num_sets(c);
  for (int set = 0; set < sets; ++set) {
    std::vector<double> rank(prefix);
    mean_rows(&pooled[set * (c.q_heads / sets) * prefix], c.q_heads / sets, prefix,
              select.arithmetic, rank);
    for (double& x : rank) x = static_cast<float>(x);
    if (sets == c.q_heads && select.arithmetic == kRounded) normalise(rank);
    std::vector<int32_t> order(prefix);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin() + std::min<int64_t>(select.protect_first, keep), order.end(),
                     [&](int32_t x, int32_t y) { return rank[x] > rank[y]; });
    std::vector<int32_t> kept(order.begin(), order.begin() + keep);
    std::sort(kept.begin(), kept.end());
    for (int j = prefix; j < dense; ++j) kept.push_back(j);
    result.sets.push_back(std::move(kept));
  }
  return result;
}

// Mask and rank must say what the indices say.
bool words_agree(const Setup& setup, int b, const std::vector<int32_t>& kept,
                 const uint32_t* mask, const uint32_t* rank) {
  size_t at = 0;
  for (int word = 0; word * 32 < setup.keys(b); ++word) {
    if (rank[word] != at) return false;
    uint32_t want = 0;
    for (; at < kept.size() && kept[at] / 32 == word; ++at) want |= 1u << kept[at] % 32;
    if (mask[word] != want) return false;
  }
  return true;
}

// An empty string, or what is wrong.
std::string check_selection(Setup& setup, const std::vector<float>& score, std::string* note) {
  const Case& c = setup.c;
  const auto counts = setup.count->read<int32_t>();
  const auto public_counts = setup.public_count->read<int64_t>();
  const auto indices = setup.indices->read<int32_t>();
  const auto mask = setup.mask->read<uint32_t>();
  const auto rank = setup.rank->read<uint32_t>();
  for (int32_t counter : setup.counters->read<int32_t>()) {
    if (counter != 0) return "tile counters not cleared";
  }
  int64_t difference = 0;
  for (int b = 0; b < c.batch; ++b) {
    const Expected want = expected_selection(setup, b, score, &difference);
    if (counts[b] != want.count) {
      return "count " + std::to_string(counts[b]) + ", want " + std::to_string(want.count);
    }
    if (public_counts[b] != want.count) return "public count";
    *note += " " + std::to_string(counts[b]) + "/" + std::to_string(setup.keys(b));
    for (size_t set = 0; set < want.sets.size(); ++set) {
      const int64_t row = static_cast<int64_t>(b) * num_sets(c) + static_cast<int64_t>(set);
      if (!std::equal(want.sets[set].begin(), want.sets[set].end(),
                      &indices[row * setup.capacity()])) {
        return "indices of set " + std::to_string(set);
      }
      if (!words_agree(setup, b, want.sets[set], &mask[row * setup.words()],
                       &rank[row * setup.words()])) {
        return "mask or rank of set " + std::to_string(set);
      }
    }
  }
  if (difference != 0) *note += " core drop differs by " + std::to_string(difference);
  return "";
}

// ---- compact, gather, scatter
// -------------------------------------------------------------------- Counts wrong 16-bit
// elements. kBack: `full` was scattered from `rows`.
template <bool kBack>
__global__ void check_rows_kernel(Sequences sequences, Selection selection, Tensor full,
                                  int full_heads, Tensor rows, int heads, int dim, int b,
                                  int seqlen_kv, int64_t kv_row, int axis, bool tail,
                                  unsigned* wrong) {
  const int count = selection.count[b];
  const int head = blockIdx.y;
  const int64_t set = static_cast<int64_t>(b) * selection.num_sets +
                      head * selection.num_sets / heads;
  const int end = kBack ? seqlen_kv : tail ? (count + kTileKv - 1) / kTileKv * kTileKv : count;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
       i < static_cast<int64_t>(end) * dim; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t r = i / dim;
    const int64_t d = i % dim;
    const auto* from = static_cast<const uint16_t*>(full.data) + axis * full.batch_stride +
                       head * full_heads / heads * full.head_stride + d;
    const auto* to = static_cast<const uint16_t*>(rows.data) + b * rows.batch_stride +
                     head * rows.head_stride + d;
    if (kBack) {
      const int32_t* list = selection.indices + set * selection.capacity;
      int64_t at = -1;
      if (selection.mask[set * selection.words + r / 32] >> (r % 32) & 1) {
        at = selection.rank[set * selection.words + r / 32] +
             __popc(selection.mask[set * selection.words + r / 32] & ((1u << r % 32) - 1));
        if (list[at] != r) atomicAdd(wrong, 1u);
      }
      const uint16_t want = at >= 0 ? to[at * rows.seq_stride] : 0;
      if (from[(kv_row + r) * full.seq_stride] != want) atomicAdd(wrong, 1u);
    } else {
      const int64_t token = r < count ? selection.indices[set * selection.capacity + r] : 0;
      const uint16_t want = r < count ? from[(kv_row + token) * full.seq_stride] : 0;
      if (to[r * rows.seq_stride] != want) atomicAdd(wrong, 1u);
    }
  }
}

template <bool kBack>
unsigned wrong_rows(Setup& setup, const Tensor& full, int full_heads, const Tensor& rows,
                    int heads, bool tail) {
  Buffer wrong(4);
  CUDA_CHECK(cudaMemset(wrong.as<void>(), 0, 4));
  for (int b = 0; b < setup.c.batch; ++b) {
    const auto counts = setup.count->read<int32_t>();
    if (counts[b] == setup.keys(b)) continue;
    check_rows_kernel<kBack><<<dim3(256, heads), 256>>>(
        setup.select_params.sequences, setup.select_params.selection, full, full_heads, rows,
        heads, setup.c.dim, b, setup.keys(b), setup.c.packed ? setup.cu_kv[b] : 0,
        setup.c.packed ? 0 : b, tail, wrong.as<unsigned>());
  }
  return wrong.read<unsigned>()[0];
}

std::string check_compact(Setup& setup) {
  const Case& c = setup.c;
  CompactParams& p = setup.compact_params;
  if (wrong_rows<false>(setup, p.k, c.kv_heads, p.compact_k, p.compact_heads, true) != 0) {
    return "compact K";
  }
  if (wrong_rows<false>(setup, p.v, c.kv_heads, p.compact_v, p.compact_heads, true) != 0) {
    return "compact V";
  }
  // The public pair, without mask and rank.
  Selection selection = p.selection;
  selection.mask = selection.rank = nullptr;
  selection.count = nullptr;
  const auto* count = setup.public_count->as<int64_t>();
  setup.compact_v->poison();
  CUDA_CHECK(gather_rows(p.sequences, selection, count, p.v, c.kv_heads,
                         p.compact_v, p.compact_heads, c.dim * 2, nullptr));
  if (wrong_rows<false>(setup, p.v, c.kv_heads, p.compact_v, p.compact_heads, false) != 0) {
    return "gather_rows";
  }
  Buffer out(tensor_bytes(setup.axes, setup.total_kv, p.compact_heads, c.dim, c.pad));
  const Tensor full = make_tensor(out, setup.total_kv, p.compact_heads, c.dim, c.pad);
  CUDA_CHECK(scatter_rows(p.sequences, selection, count, p.compact_v, full,
                          p.compact_heads, c.dim * 2, nullptr));
  if (wrong_rows<true>(setup, full, p.compact_heads, p.compact_v, p.compact_heads, false) != 0) {
    return "scatter_rows";
  }
  return "";
}

std::vector<std::vector<uint8_t>> outputs(Setup& setup) {
  std::vector<std::vector<uint8_t>> all;
  for (Buffer* buffer : {setup.score.get(), setup.ranked.get(), setup.indices.get(),
                         setup.mask.get(), setup.rank.get(), setup.count.get()}) {
    all.push_back(buffer->read<uint8_t>());
  }
  return all;
}

bool run_case(const Case& c) {
  Setup setup(c);
  setup.run_all();
  const auto first = outputs(setup);
  for (int i = 0; i < 3; ++i) setup.run_all();
  std::string problem = first == outputs(setup) ? "" : "reruns differ";
  std::string note;
  const bool finite = c.poison_key < 0.0f;
  const double error = finite ? score_error(setup) : 0.0;
  if (problem.empty() && !(error < 2e-3)) problem = "score";
  if (problem.empty()) problem = check_selection(setup, setup.score->read<float>(), &note);
  if (problem.empty()) problem = check_compact(setup);
  std::printf("%-4s %-28s score error %.1e, kept%s%s%s\n", problem.empty() ? "ok" : "FAIL",
              c.name, error, note.c_str(), problem.empty() ? "" : ": ", problem.c_str());
  std::fflush(stdout);
  return problem.empty();
}

// Crafted scores go straight into select.
bool run_crafted(const char* name, Case c, float (*score)(int head, int token)) {
  Setup setup(c);
  std::vector<float> host(static_cast<size_t>(c.batch) * c.q_heads * setup.stride(), NAN);
  for (int row = 0; row < c.batch * c.q_heads; ++row) {
    for (int j = 0; j < setup.prefix(0); ++j) {
      host[row * setup.stride() + j] = score(row % c.q_heads, j);
    }
  }
  setup.score->write(host);
  setup.run_select(nullptr);
  setup.run_compact(nullptr);
  CUDA_CHECK(cudaDeviceSynchronize());
  std::string note;
  std::string problem = check_selection(setup, host, &note);
  if (problem.empty()) problem = check_compact(setup);
  std::printf("%-4s %-28s crafted, kept%s%s%s\n", problem.empty() ? "ok" : "FAIL", name,
              note.c_str(), problem.empty() ? "" : ": ", problem.c_str());
  std::fflush(stdout);
  return problem.empty();
}

std::vector<Case> cases() {
  const auto kv = Share::kKv;
  const auto layer = Share::kLayer;
  return {
      {.name = "d128 8/2 2048", .select = config(kTau, 0.005)},
      {.name = "d128 f16", .bf16 = false, .select = config(kTau, 0.05)},
      {.name = "d64 8/2 1153", .dim = 64, .seqlen = 1153, .select = config(kTau, 0.05)},
      {.name = "d64 f16 pool 5", .bf16 = false, .dim = 64, .seqlen = 4097,
       .select = config(kTau, 0.005, 5)},
      {.name = "d256 8/2", .dim = 256, .seqlen = 2049, .select = config(kTau, 0.05)},
      {.name = "d256 f16 6/2", .bf16 = false, .dim = 256, .q_heads = 6, .seqlen = 1500,
       .select = config(kTau, 0.05)},
      {.name = "4/4 bf16 rounding", .q_heads = 4, .kv_heads = 4, .seqlen = 3000,
       .select = config(kTau, 0.005, 7, 64, 0, kRounded)},
      {.name = "6/2 kv", .q_heads = 6, .seqlen = 2500, .share = kv,
       .select = config(kTau, 0.05)},
      {.name = "4/1 layer", .q_heads = 4, .kv_heads = 1, .seqlen = 4000, .share = layer,
       .select = config(kRatio, 0.2)},
      {.name = "9/3 d64 layer rounding", .dim = 64, .q_heads = 9, .kv_heads = 3, .seqlen = 5001,
       .share = layer, .select = config(kTau, 0.05, 7, 64, 4, kRounded)},
      {.name = "32/8 8192", .q_heads = 32, .kv_heads = 8, .seqlen = 8192,
       .select = config(kTau, 0.005)},
      {.name = "32/8 8191 rounding", .q_heads = 32, .kv_heads = 8, .seqlen = 8191,
       .select = config(kTau, 0.005, 7, 1024, 0, kRounded)},
      {.name = "32/8 33000 head", .q_heads = 32, .kv_heads = 8, .seqlen = 33000,
       .select = config(kTau, 0.005)},
      {.name = "32/8 32999 rounding", .q_heads = 32, .kv_heads = 8, .seqlen = 32999,
       .select = config(kTau, 0.005, 7, 1024, 0, kRounded)},
      {.name = "32/8 33000 layer .2", .q_heads = 32, .kv_heads = 8, .seqlen = 33000,
       .share = layer, .select = config(kRatio, 0.2, 7, 64, 4)},
      {.name = "32/8 20000 kv tau .9", .q_heads = 32, .kv_heads = 8, .seqlen = 20000,
       .share = kv, .select = config(kTau, 0.9)},
      {.name = "window 64", .seqlen = 1200, .window = 64, .select = config(kTau, 0.05)},
      {.name = "window 37 pool 9", .seqlen = 999, .window = 37, .select = config(kTau, 0.05, 9)},
      {.name = "window 300", .seqlen = 1999, .window = 300, .select = config(kTau, 0.05)},
      {.name = "window 512 d256", .dim = 256, .seqlen = 1999, .window = 512,
       .select = config(kTau, 0.05)},
      {.name = "window 512 d128 6/2", .q_heads = 6, .seqlen = 3001, .window = 512,
       .select = config(kTau, 0.05, 1)},
      {.name = "window 1", .seqlen = 700, .window = 1, .select = config(kTau, 0.05)},
      {.name = "300 tokens", .seqlen = 300, .select = config(kTau, 0.05, 7, 8)},
      {.name = "batch 2 strided", .batch = 2, .seqlen = 1777, .select = config(kTau, 0.05),
       .pad = 64},
      {.name = "packed 3", .batch = 3, .seqlen = 3001, .select = config(kTau, 0.05),
       .packed = true},
      {.name = "packed 3 layer rounding", .dim = 64, .batch = 3, .seqlen = 1500, .share = layer,
       .select = config(kTau, 0.05, 7, 64, 4, kRounded), .packed = true},
      {.name = "chunk suffix 640", .seqlen = 4000, .queries = 640, .suffix = 640, .share = kv,
       .select = config(kRatio, 0.3)},
      {.name = "queries 200 of 3000", .seqlen = 3000, .queries = 200,
       .select = config(kCount, 500, 7, 8)},
      {.name = "softcap", .select = config(kTau, 0.05), .softcap = 20.0f},
      {.name = "softcap d64 sinks", .dim = 64, .seqlen = 1700, .select = config(kTau, 0.05),
       .softcap = 5.0f, .sinks = true},
      {.name = "sinks f16", .bf16 = false, .seqlen = 1700, .select = config(kTau, 0.05),
       .sinks = true},
      {.name = "protect 100", .seqlen = 3000, .select = config(kCount, 150, 7, 8, 100)},
      {.name = "protect = keep", .seqlen = 3000, .select = config(kCount, 50, 7, 8, 90)},
      {.name = "min_keep 1024", .seqlen = 3000, .select = config(kTau, 0.9, 7, 1024)},
      {.name = "short: dense", .seqlen = 1100, .select = config(kTau, 0.05, 7, 1024)},
      {.name = "one head peaky", .q_heads = 1, .kv_heads = 1, .seqlen = 2345,
       .select = config(kTau, 0.05), .q_scale = 12.0f},
      {.name = "NaN key: dense", .seqlen = 2000, .select = config(kTau, 0.05),
       .poison_key = 0.4f},
      {.name = "d256 32/8 9000", .dim = 256, .q_heads = 32, .kv_heads = 8, .seqlen = 9000,
       .select = config(kTau, 0.05)},
      {.name = "d256 8/1 40001 softcap", .dim = 256, .kv_heads = 1, .seqlen = 40001,
       .share = layer, .select = config(kRatio, 0.1), .softcap = 30.0f},
      {.name = "d64 f16 32/4 30000 softcap", .bf16 = false, .dim = 64, .q_heads = 32,
       .kv_heads = 4, .seqlen = 30000, .window = 64, .share = kv,
       .select = config(kRatio, 0.3), .softcap = 30.0f},
      {.name = "100003 tokens 4/1", .q_heads = 4, .kv_heads = 1, .seqlen = 100003,
       .select = config(kTau, 0.005)},
      {.name = "100003 layer rounding", .q_heads = 4, .kv_heads = 1, .seqlen = 100003,
       .share = layer, .select = config(kTau, 0.05, 5, 1024, 4, kRounded)},
  };
}

}  // namespace

TestCounts test_stages() {
  TestCounts counts;
  const auto record = [&](bool ok) { ++(ok ? counts.passed : counts.failed); };
  for (const Case& c : cases()) record(run_case(c));

  Case crafted = {.name = "", .dim = 64, .q_heads = 4, .kv_heads = 2, .seqlen = 3001};
  for (const Arithmetic arithmetic : {Arithmetic::kFp32, kRounded}) {
    for (const Share share : {Share::kHead, Share::kKv, Share::kLayer}) {
      crafted.share = share;
      crafted.select = config(kRatio, 0.3, 7, 8, 4, arithmetic);
      record(run_crafted("all equal", crafted, [](int, int) { return 1.0f / 4096; }));
      record(run_crafted("zeros", crafted, [](int, int) { return 0.0f; }));
      record(run_crafted("one-hot", crafted,
                         [](int h, int j) { return j == 100 + h ? 1.0f : 0.0f; }));
      record(run_crafted("few values", crafted,
                         [](int h, int j) { return ((j * 7 + h) % 5) * 1e-4f; }));
      crafted.select = config(kTau, 0.05, 7, 8, 0, arithmetic);
      record(run_crafted("few values, tau", crafted,
                         [](int h, int j) { return ((j * 7 + h) % 5) * 1e-4f; }));
      crafted.select.tau = 1e-9;
      record(run_crafted("tiny tau: drop == 0", crafted,
                         [](int h, int j) { return (1 + (j * 7 + h) % 5) * 1e-4f; }));
      record(run_crafted("infinite: dense", crafted,
                         [](int, int j) { return j == 5 ? INFINITY : 1e-4f; }));
    }
  }
  crafted.seqlen = 400000;
  crafted.share = Share::kHead;
  crafted.select = config(kTau, 0.05, 7, 1024, 0);
  record(run_crafted("400000 tokens", crafted, [](int h, int j) {
    return 2e-6f * static_cast<float>((j * 2654435761u + h * 40503u) >> 8 & 0xffff) / 65536.0f;
  }));
  crafted.q_heads = crafted.kv_heads = 1;
  crafted.seqlen = 1048576 + 77;
  record(run_crafted("1M tokens", crafted, [](int h, int j) {
    return 2e-6f * static_cast<float>((j * 2654435761u + h * 40503u) >> 8 & 0xffff) / 65536.0f;
  }));
  return counts;
}

}  // namespace tokensieve::cuda::test
