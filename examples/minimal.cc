// Sparse causal attention over 8192 random tokens.
#include <tokensieve/tokensieve.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

using namespace tokensieve;

int main() {
  const int64_t tokens = 8192, heads = 4, dim = 64, size = tokens * heads * dim;
  std::vector<float> data(4 * size);
  std::generate(data.begin(), data.end(), [] { return std::rand() / float(RAND_MAX) - 0.5f; });
  const auto tensor = [&](int i) {
    return bshd(&data[i * size], DType::kF32, 1, tokens, heads, dim);
  };

  const Result<Plan> plan = make_plan(
      {.seqlen_q = tokens, .seqlen_kv = tokens, .num_q_heads = heads, .num_kv_heads = heads,
       .head_dim = dim},
      {.budget = BudgetPolicy::kKeepRatio, .keep_ratio = 0.2, .fill = Fill::kLocal});
  if (!plan.ok()) return std::puts(plan.status().message()), 1;
  std::vector<std::byte> workspace(workspace_bytes(*plan));
  RunReport report;
  const Status status = run(*plan, {.q = tensor(0), .k = tensor(1), .v = tensor(2)},
                            {.out = tensor(3)}, workspace, {.report = &report});
  if (!status.ok()) return std::puts(status.message()), 1;
  std::printf("kept %.0f %% of the tokens, computed %.0f %% of the attention\n",
              100 * report.keep_ratio, 100 * report.work);
}
