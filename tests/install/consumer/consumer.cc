// Touches every header's compiled part, so that a missing export fails to link.
#include <tokensieve/tokensieve.h>

#include <cstdio>
#include <vector>

using namespace tokensieve;

int main() {
  constexpr int64_t kTokens = 96, kHeads = 2, kDim = 16;
  const std::unique_ptr<Executor> pool = make_thread_pool(2);
  const Result<Plan> plan =
      make_plan({.seqlen_q = kTokens, .seqlen_kv = kTokens, .num_q_heads = kHeads,
                 .num_kv_heads = kHeads, .head_dim = kDim},
                {.budget = BudgetPolicy::kKeepCount, .keep_count = 20, .obs_window = 16,
                 .min_keep = 0, .dense_policy = DensePolicy::kNever},
                {.num_threads = 2});
  if (!plan.ok()) return std::puts(plan.status().message()), 1;
  std::vector<float> x(kTokens * kHeads * kDim, 0.5f), out(x.size());
  const TensorView in = bshd(x.data(), DType::kF32, 1, kTokens, kHeads, kDim);
  std::vector<std::byte> workspace(workspace_bytes(*plan));
  RunReport report;
  const Status status =
      run(*plan, {.q = in, .k = in, .v = in},
          {.out = bshd(out.data(), DType::kF32, 1, kTokens, kHeads, kDim)}, workspace,
          {.executor = pool.get(), .report = &report});
  if (!status.ok()) return std::puts(status.message()), 1;
  if (report.keep_count != 36) return std::puts("expected 20 + 16 kept tokens"), 1;

  const Result<Profile> profile = parse_profile(profile_to_json(Profile{}), "default");
  if (!profile.ok() || profile->is_sparse(0)) return std::puts(profile.status().message()), 1;
  if (!check_fingerprint(*profile, {}).ok()) return 1;
  std::printf("%s %s %s %s %s %zu\n", TOKENSIEVE_VERSION_STRING, isa_name(report.isa),
              backend_name(plan->options.backend), dtype_name(DType::kF32),
              dense_reason_text(report.reason), supported_isas().size());
  return 0;
}
