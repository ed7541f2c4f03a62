// Instruction sets: the one that is forced is the one that runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <vector>

#if defined(__linux__)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "tokensieve/tokensieve.h"

namespace tokensieve {
namespace {

// A small dense run; the report's isa comes from the kernels' own translation unit.
Result<Isa> isa_that_runs(Isa wanted) {
  AttentionShape shape;
  shape.seqlen_q = shape.seqlen_kv = 70;
  shape.num_q_heads = shape.num_kv_heads = 1;
  shape.head_dim = 16;
  SelectConfig dense;
  dense.enabled = false;
  const Result<Plan> plan = make_plan(shape, dense, {.backend = Backend::kCpu, .isa = wanted});
  if (!plan.ok()) return plan.status();
  std::vector<float> x(70 * 16, 0.5f), out(70 * 16);
  std::vector<std::byte> workspace(workspace_bytes(*plan));
  const TensorView view = bshd(x.data(), DType::kF32, 1, 70, 1, 16);
  RunReport report;
  const Status status = run(*plan, {.q = view, .k = view, .v = view},
                            {.out = bshd(out.data(), DType::kF32, 1, 70, 1, 16)}, workspace,
                            {.report = &report});
  if (!status.ok()) return status;
  return report.isa;
}

class ForcedIsa : public testing::Test {
 protected:
  void TearDown() override { unsetenv("TOKENSIEVE_ISA"); }
};

TEST_F(ForcedIsa, ByTheApi) {
  ASSERT_FALSE(supported_isas().empty());
  for (Isa isa : supported_isas()) {
    const Result<Isa> ran = isa_that_runs(isa);
    ASSERT_TRUE(ran.ok()) << ran.status().message();
    EXPECT_EQ(*ran, isa);
  }
}

TEST_F(ForcedIsa, ByTheEnvironment) {
  for (Isa isa : supported_isas()) {
    setenv("TOKENSIEVE_ISA", isa_name(isa), 1);
    const Result<Isa> ran = isa_that_runs(Isa::kAuto);
    ASSERT_TRUE(ran.ok()) << ran.status().message();
    EXPECT_EQ(*ran, isa);
  }
}

TEST_F(ForcedIsa, AutoIsTheBest) {
  EXPECT_EQ(isa_that_runs(Isa::kAuto).value(), supported_isas().front());
}

// Tiles are for products other than exact: what is exact runs on vectors.
TEST_F(ForcedIsa, TilesWithExactProductsAreTheVectorsBesideThem) {
  EXPECT_EQ(isa_that_runs(Isa::kAmxEmulated).value(), supported_isas().front());
  if (isa_supported(Isa::kAmx)) {
    EXPECT_EQ(isa_that_runs(Isa::kAmx).value(), Isa::kAvx512);
  }
  setenv("TOKENSIEVE_ISA", "amx_emulated", 1);
  EXPECT_EQ(isa_that_runs(Isa::kAuto).value(), supported_isas().front());
}

TEST_F(ForcedIsa, UnknownNameIsAnError) {
  setenv("TOKENSIEVE_ISA", "mmx", 1);
  const Result<Isa> ran = isa_that_runs(Isa::kAuto);
  ASSERT_FALSE(ran.ok());
  EXPECT_EQ(ran.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(ran.status().message(), testing::HasSubstr("mmx"));
  EXPECT_THAT(ran.status().message(), testing::HasSubstr("avx512"));
}

TEST_F(ForcedIsa, OneThatThisCpuLacksIsAnError) {
  const Isa foreign = supported_isas().front() == Isa::kNeon ? Isa::kAvx2 : Isa::kNeon;
  const Result<Isa> ran = isa_that_runs(foreign);
  ASSERT_FALSE(ran.ok());
  EXPECT_EQ(ran.status().code(), StatusCode::kUnsupported);
  EXPECT_THAT(ran.status().message(), testing::HasSubstr(isa_name(foreign)));
}

#if defined(__linux__)
// In a process of its own, which has not been granted tiles yet: a signal stack that lacks their 8
// KiB makes the system refuse them, and the plan say so.
TEST(Tiles, NeedRoomOnTheSignalStack) {
  if (!isa_supported(Isa::kAmx)) GTEST_SKIP() << "no matrix tiles";
  const pid_t child = fork();
  if (child == 0) {
    std::vector<char> small(4096);
    const stack_t stack = {.ss_sp = small.data(), .ss_flags = 0, .ss_size = small.size()};
    if (sigaltstack(&stack, nullptr) != 0) _exit(2);
    AttentionShape shape = {.seqlen_q = 1, .seqlen_kv = 1, .num_q_heads = 1, .num_kv_heads = 1,
                            .head_dim = 16};
    const Plan plan = make_plan(shape, {.enabled = false}, {.products = Products::kBf16}).value();
    const bool said = plan.options.products == Products::kExact &&
                      plan.options.isa == Isa::kAvx512 &&
                      plan.products_reason == ProductsReason::kSignalStack;
    _exit(said ? 0 : 1);
  }
  int state = 0;
  ASSERT_EQ(waitpid(child, &state, 0), child);
  EXPECT_TRUE(WIFEXITED(state));
  EXPECT_EQ(WEXITSTATUS(state), 0);
}
#endif

#if defined(__x86_64__)
TEST(Isas, X86BuildsHaveAllFour) {
  EXPECT_THAT(compiled_isas(),
              testing::ElementsAre(Isa::kAvx512, Isa::kAvx2, Isa::kSse4, Isa::kBaseline));
}
#elif defined(__aarch64__)
TEST(Isas, AArch64BuildsHaveNeon) {
  EXPECT_THAT(compiled_isas(), testing::ElementsAre(Isa::kNeon));
  EXPECT_EQ(supported_isas(), compiled_isas());
}
#endif

}  // namespace
}  // namespace tokensieve
