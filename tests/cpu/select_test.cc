// Stages budget and select on the CPU: the oracle's sets, under every instruction set.
#include <gmock/gmock.h>

#include "support/isas.h"
#include "support/kept_sets.h"

namespace tokensieve {
namespace {

using test::AttentionCase;

class CpuSelect : public testing::TestWithParam<AttentionCase> {};

TEST_P(CpuSelect, KeepsTheOraclesTokens) {
  const AttentionCase& c = GetParam();
  const test::CaseData data = test::make_data(c, 3);
  const ref::OracleResult expected = test::run_oracle(c, data);
  for (Isa isa : test::tested_isas()) {
    SCOPED_TRACE(isa_name(isa));
    const test::Kept kept(c, data, isa);
    for (int64_t b = 0; b < c.shape.batch; ++b) {
      const ref::Selection& selection = expected.sequences[b];
      if (selection.dense()) {
        EXPECT_EQ(kept.count[b], c.shape.seqlen_kv);
        continue;
      }
      for (int64_t s = 0; s < kept.plan.num_sets; ++s) {
        EXPECT_THAT(kept.set(b, s), testing::ElementsAreArray(selection.kept[s]))
            << "sequence " << b << ", set " << s;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuSelect,
                         testing::ValuesIn(test::cases_where([](const AttentionCase& c) {
                           return c.reason == DenseReason::kNone ||
                                  c.name == test::partly_dense_case().name;
                         })),
                         test::case_name);

}  // namespace
}  // namespace tokensieve
