// Bad parameters of make_plan: each is refused with the value and what is allowed.
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "core/expect_error.h"
#include "tokensieve/attention.h"

namespace tokensieve {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Call {
  AttentionShape shape{.seqlen_q = 4096,
                       .seqlen_kv = 4096,
                       .num_q_heads = 4,
                       .num_kv_heads = 2,
                       .head_dim = 64};
  SelectConfig select;
  PlanOptions options;
};

struct BadParameter {
  std::string name;
  std::function<void(Call&)> break_it;
  std::vector<std::string> pieces;  // of the message
  StatusCode code = StatusCode::kInvalidArgument;
};

void PrintTo(const BadParameter& bad, std::ostream* os) { *os << bad.name; }

class BadParameters : public testing::TestWithParam<BadParameter> {};

TEST_P(BadParameters, AreRefusedWithValueAndAllowed) {
  Call call;
  ASSERT_TRUE(make_plan(call.shape, call.select, call.options).ok());
  GetParam().break_it(call);
  test::expect_error(make_plan(call.shape, call.select, call.options).status(), GetParam().code,
                     GetParam().pieces);
}

const BadParameter kBadShapes[] = {
    {"batch_zero", [](Call& c) { c.shape.batch = 0; }, {"batch is 0", "allowed: 1.."}},
    {"batch_negative", [](Call& c) { c.shape.batch = -3; }, {"batch is -3"}},
    {"batch_huge", [](Call& c) { c.shape.batch = int64_t{1} << 40; }, {"batch is", "2^20"}},
    {"seqlen_kv_zero", [](Call& c) { c.shape.seqlen_kv = 0; }, {"seqlen_kv is 0", "allowed"}},
    {"seqlen_kv_huge", [](Call& c) { c.shape.seqlen_kv = int64_t{1} << 31; }, {"2^31-1"}},
    {"tokens_huge",
     [](Call& c) { c.shape.batch = 1 << 20, c.shape.seqlen_kv = 1 << 20; },
     {"batch * seqlen_kv is 1.09951e+12", "at most 2^36"}},
    {"seqlen_q_zero", [](Call& c) { c.shape.seqlen_q = 0; }, {"seqlen_q is 0", "1..seqlen_kv"}},
    {"seqlen_q_negative", [](Call& c) { c.shape.seqlen_q = -1; }, {"seqlen_q is -1"}},
    {"seqlen_q_above_kv",
     [](Call& c) { c.shape.seqlen_q = 4097; },
     {"seqlen_q is 4097", "1..seqlen_kv (4096)"}},
    {"kv_heads_zero", [](Call& c) { c.shape.num_kv_heads = 0; }, {"num_kv_heads is 0"}},
    {"kv_heads_negative", [](Call& c) { c.shape.num_kv_heads = -2; }, {"num_kv_heads is -2"}},
    {"q_heads_zero", [](Call& c) { c.shape.num_q_heads = 0; }, {"num_q_heads is 0"}},
    {"q_heads_odd_group",
     [](Call& c) { c.shape.num_q_heads = 5; },
     {"num_q_heads is 5", "a multiple of num_kv_heads (2)"}},
    {"q_heads_huge", [](Call& c) { c.shape.num_q_heads = 8192; }, {"8192", "at most 4096"}},
    {"head_dim_odd",
     [](Call& c) { c.shape.head_dim = 72; },
     {"head_dim is 72", "a multiple of 16 from 16 to 256", "pad"},
     StatusCode::kUnsupported},
    {"head_dim_zero",
     [](Call& c) { c.shape.head_dim = 0; },
     {"head_dim is 0"},
     StatusCode::kUnsupported},
    {"head_dim_large",
     [](Call& c) { c.shape.head_dim = 272; },
     {"head_dim is 272"},
     StatusCode::kUnsupported},
    {"dtype", [](Call& c) { c.shape.dtype = DType(9); }, {"dtype is 9", "f32, f16, bf16"}},
    {"kv_dtype", [](Call& c) { c.shape.kv_dtype = DType(-1); }, {"kv_dtype is -1", "f32"}},
    {"out_dtype", [](Call& c) { c.shape.out_dtype = DType(3); }, {"out_dtype is 3", "f32"}},
    {"scale_nan", [](Call& c) { c.shape.sm_scale = kNan; }, {"sm_scale is", "nan", "finite"}},
    {"scale_inf", [](Call& c) { c.shape.sm_scale = kInf; }, {"sm_scale is inf", "finite"}},
    {"scale_negative", [](Call& c) { c.shape.sm_scale = -1; }, {"sm_scale is -1", "> 0"}},
    {"softcap_nan", [](Call& c) { c.shape.softcap = kNan; }, {"softcap is", "nan", "finite"}},
    {"softcap_negative", [](Call& c) { c.shape.softcap = -30; }, {"softcap is -30", "> 0"}},
};

const BadParameter kBadSelects[] = {
    {"tau_one", [](Call& c) { c.select.tau = 1.0; }, {"tau is 1;", "[0, 1)"}},
    {"tau_negative", [](Call& c) { c.select.tau = -0.1; }, {"tau is -0.1", "[0, 1)"}},
    {"tau_nan", [](Call& c) { c.select.tau = kNan; }, {"tau is", "nan", "[0, 1)"}},
    {"keep_ratio_zero", [](Call& c) { c.select.keep_ratio = 0; }, {"keep_ratio is 0", "(0, 1]"}},
    {"keep_ratio_large", [](Call& c) { c.select.keep_ratio = 1.5; }, {"1.5", "(0, 1]"}},
    {"keep_ratio_nan", [](Call& c) { c.select.keep_ratio = kNan; }, {"keep_ratio is", "nan"}},
    {"keep_count_zero", [](Call& c) { c.select.keep_count = 0; }, {"keep_count is 0", ">= 1"}},
    {"min_drop_one", [](Call& c) { c.select.min_drop = 1; }, {"min_drop is 1", "[0, 1)"}},
    {"min_drop_nan", [](Call& c) { c.select.min_drop = kNan; }, {"min_drop is", "nan"}},
    {"window_zero", [](Call& c) { c.select.obs_window = 0; }, {"obs_window is 0", ">= 1"}},
    {"window_negative", [](Call& c) { c.select.obs_window = -5; }, {"obs_window is -5", ">= 1"}},
    {"window_large", [](Call& c) { c.select.obs_window = 5000; }, {"5000", "at most 4096"}},
    {"pool_even", [](Call& c) { c.select.pool_width = 4; }, {"pool_width is 4", "an odd number"}},
    {"pool_zero", [](Call& c) { c.select.pool_width = 0; }, {"pool_width is 0", "from 1 to 1023"}},
    {"pool_large", [](Call& c) { c.select.pool_width = 1025; }, {"1025", "1023"}},
    {"min_keep", [](Call& c) { c.select.min_keep = -1; }, {"min_keep is -1", ">= 0"}},
    {"protect", [](Call& c) { c.select.protect_first = -1; }, {"protect_first is -1", ">= 0"}},
    {"local_window_odd",
     [](Call& c) { c.select.local_window = 100; },
     {"local_window is 100", "a multiple of 64"}},
    {"local_window_negative",
     [](Call& c) { c.select.local_window = -64; },
     {"local_window is -64", ">= 0"}},
    {"sinks_negative", [](Call& c) { c.select.sinks = -1; }, {"sinks is -1", "0..64"}},
    {"sinks_many", [](Call& c) { c.select.sinks = 65; }, {"sinks is 65", "0..64"}},
    {"budget", [](Call& c) { c.select.budget = BudgetPolicy(7); }, {"budget is 7", "tau"}},
    {"share", [](Call& c) { c.select.share = Share(3); }, {"share is 3", "head, kv, layer"}},
    {"fill", [](Call& c) { c.select.fill = Fill(-1); }, {"fill is -1", "zero, local"}},
    {"queries", [](Call& c) { c.select.queries = Queries(2); }, {"queries is 2", "kept, all"}},
    {"arithmetic",
     [](Call& c) { c.select.arithmetic = Arithmetic(4); },
     {"arithmetic is 4", "fp32, reference_rounding"}},
    {"dense_policy",
     [](Call& c) { c.select.dense_policy = DensePolicy(2); },
     {"dense_policy is 2", "break_even, never"}},
};

const BadParameter kBadOptions[] = {
    {"threads_zero", [](Call& c) { c.options.num_threads = 0; }, {"num_threads is 0", "1..4096"}},
    {"threads_negative", [](Call& c) { c.options.num_threads = -2; }, {"num_threads is -2"}},
    {"threads_huge", [](Call& c) { c.options.num_threads = 9999; }, {"9999", "1..4096"}},
    {"backend", [](Call& c) { c.options.backend = Backend(9); }, {"backend is 9", "cpu"}},
    // Not in this build, or no such GPU here, or f32.
    {"backend_unusable",
     [](Call& c) { c.options.backend = Backend::kCuda; },
     {"backend cuda", "cpu"},
     StatusCode::kUnsupported},
    {"isa", [](Call& c) { c.options.isa = Isa(42); }, {"isa is 42", "avx512, avx2"}},
    {"products", [](Call& c) { c.options.products = Products(4); },
     {"products is 4", "auto, exact, split, bf16"}},
};

const auto kName = [](const testing::TestParamInfo<BadParameter>& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(Shape, BadParameters, testing::ValuesIn(kBadShapes), kName);
INSTANTIATE_TEST_SUITE_P(Select, BadParameters, testing::ValuesIn(kBadSelects), kName);
INSTANTIATE_TEST_SUITE_P(Options, BadParameters, testing::ValuesIn(kBadOptions), kName);

TEST(Parameters, OfADisabledSelectionAreNotRead) {
  Call call;
  call.select = {.enabled = false, .tau = 7.0, .pool_width = 4};
  const Result<Plan> plan = make_plan(call.shape, call.select);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  EXPECT_EQ(plan->reason, DenseReason::kDisabled);
}

TEST(Parameters, AtTheirLimitsAreAccepted) {
  Call call;
  call.shape = {.batch = 1, .seqlen_q = 1, .seqlen_kv = 1, .num_q_heads = 1, .num_kv_heads = 1,
                .head_dim = 16};
  EXPECT_TRUE(make_plan(call.shape, call.select).ok());
  call.shape = {.batch = 1,
                .seqlen_q = 1,
                .seqlen_kv = std::numeric_limits<int32_t>::max(),
                .num_q_heads = 4096,
                .num_kv_heads = 4096,
                .head_dim = 256};
  EXPECT_TRUE(make_plan(call.shape, call.select).ok());
  call.select = {.tau = std::nextafter(1.0, 0.0), .keep_ratio = 1.0, .obs_window = 4096,
                 .pool_width = 1023, .min_keep = 0, .local_window = 0, .sinks = 64};
  EXPECT_TRUE(make_plan(call.shape, call.select).ok());
}

}  // namespace
}  // namespace tokensieve
