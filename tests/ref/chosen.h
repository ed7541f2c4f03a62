// What the oracle's stages score, budget and select make of a row of the case tables.
#pragma once

#include <cstdint>

#include "ref/oracle.h"
#include "support/case_data.h"

namespace tokensieve::test {

// A sparse plan of the case tables, with its oracle.
struct Chosen {
  AttentionCase c;
  CaseData data;
  Plan plan;
  ref::Selection selection;
};

inline Chosen choose(const AttentionCase& c) {
  Chosen x = {c,
              make_data(c, 7),
              make_plan(c.shape, c.select, {.backend = Backend::kRef}).value(),
              {}};
  x.selection = ref::select_sequence(x.plan, x.data.inputs(), 0, {});
  return x;
}

// Cases whose plan is sparse and whose scores are finite.
inline bool selects(const AttentionCase& c) {
  return make_plan(c.shape, c.select, {.backend = Backend::kRef}).value().path == Path::kSparse &&
         c.reason != DenseReason::kNonFiniteScore;
}

}  // namespace tokensieve::test
