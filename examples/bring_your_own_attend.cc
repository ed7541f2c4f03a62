// Any attention kernel fits between select and scatter. Here it is three plain loops over compact
// rows; the result is compared with the library's own run().
#include <tokensieve/tokensieve.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

using namespace tokensieve;

namespace {

constexpr int64_t kTokens = 1024, kHeads = 4, kKvHeads = 2, kDim = 32;

// Causal attention among `rows` compact rows of one head; row r starts at r * stride.
void my_attend(const float* q, const float* k, const float* v, int64_t rows, int64_t stride,
               float* out) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(kDim));
  std::vector<float> weights(rows);
  for (int64_t i = 0; i < rows; ++i) {
    float max = -INFINITY, sum = 0.0f;
    for (int64_t j = 0; j <= i; ++j) {
      weights[j] = 0.0f;
      for (int64_t d = 0; d < kDim; ++d) weights[j] += q[i * stride + d] * k[j * stride + d];
      weights[j] *= scale;
      max = std::max(max, weights[j]);
    }
    for (int64_t j = 0; j <= i; ++j) sum += weights[j] = std::exp(weights[j] - max);
    std::fill_n(out + i * stride, kDim, 0.0f);
    for (int64_t j = 0; j <= i; ++j) {
      for (int64_t d = 0; d < kDim; ++d) {
        out[i * stride + d] += weights[j] / sum * v[j * stride + d];
      }
    }
  }
}

void check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.message());
  std::exit(1);
}

std::vector<float> random_values(size_t count, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

TensorView view(const std::vector<float>& data, int64_t rows, int64_t heads) {
  return bshd(data.data(), DType::kF32, 1, rows, heads, kDim);
}

}  // namespace

int main() {
  const std::vector<float> q = random_values(kTokens * kHeads * kDim, 1);
  const std::vector<float> k = random_values(kTokens * kKvHeads * kDim, 2);
  const std::vector<float> v = random_values(kTokens * kKvHeads * kDim, 3);
  const Result<Plan> made = make_plan(
      {.seqlen_q = kTokens, .seqlen_kv = kTokens, .num_q_heads = kHeads, .num_kv_heads = kKvHeads,
       .head_dim = kDim},
      {.budget = BudgetPolicy::kKeepRatio, .keep_ratio = 0.3, .min_keep = 64,
       .dense_policy = DensePolicy::kNever});
  check(made.status());
  const Plan& plan = *made;
  std::vector<std::byte> workspace(workspace_bytes(plan));

  // 1. select_tokens: ascending positions for each head.
  const int64_t capacity = plan.keep_capacity();
  std::vector<int32_t> indices(plan.num_sets * capacity);
  int64_t count = 0;
  const KeepSet keep = {indices.data(), capacity, &count};
  check(select_tokens(plan, {.q = view(q, kTokens, kHeads), .k = view(k, kTokens, kKvHeads)}, keep,
                       workspace));

  // 2. compact: gather the kept rows, K and V expanded to one copy a query head.
  std::vector<float> qc(capacity * kHeads * kDim), kc(qc.size()), vc(qc.size()), oc(qc.size());
  check(compact(plan, view(q, kTokens, kHeads), keep, view(qc, capacity, kHeads)));
  check(compact(plan, view(k, kTokens, kKvHeads), keep, view(kc, capacity, kHeads)));
  check(compact(plan, view(v, kTokens, kKvHeads), keep, view(vc, capacity, kHeads)));

  // 3. attend: the caller's.
  for (int64_t h = 0; h < kHeads; ++h) {
    const int64_t head = h * kDim;
    my_attend(&qc[head], &kc[head], &vc[head], count, kHeads * kDim, &oc[head]);
  }

  // 4. scatter: rows go back to their positions, all others become 0.
  std::vector<float> out(q.size()), expected(q.size());
  check(scatter(plan, view(oc, capacity, kHeads), keep, view(out, kTokens, kHeads)));

  check(run(plan,
            {.q = view(q, kTokens, kHeads),
             .k = view(k, kTokens, kKvHeads),
             .v = view(v, kTokens, kKvHeads)},
            {.out = view(expected, kTokens, kHeads)}, workspace));
  float worst = 0.0f;
  for (size_t i = 0; i < out.size(); ++i) worst = std::max(worst, std::fabs(out[i] - expected[i]));
  std::printf("kept %lld of %lld tokens a head; largest difference to run(): %.2g\n",
              static_cast<long long>(count), static_cast<long long>(kTokens), worst);
  return worst < 1e-4f ? 0 : 1;
}
