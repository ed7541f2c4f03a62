// The newest rows of query heads against all of their keys, in the coordinates of their kept tokens
// or of all: stage score, and the probes of FlexPrefill and MInference.
#pragma once

#include "cpu/context.h"

namespace tokensieve::cpu {

struct Probe {
  Stage stage;
  int64_t batch;
  int64_t keep = -1;  // kept prefix tokens of the sets; -1: all tokens take part
  int64_t keys;
  int64_t rows;    // newest; of a head that has fewer, those
  float scale;     // of q, log2 domain
  float softcap = 0.0f;
  const float* sink_logits = nullptr;
  const ScoreBuffers& buffers;

  // Of heads from first_head on: means over the rows of their softmax.
  int64_t first_head = 0;
  int64_t columns;           // first keys that are wanted
  float* mass = nullptr;     // [heads][columns] by key
  float* slashes = nullptr;  // [heads][keys] by distance, or null
};

// Heads that a call of run_probe takes at most.
int64_t heads_at_once(const Context& context, const Probe& probe);
int64_t heads_at_once(const ScoreBuffers& buffers, int64_t rows, int panel_cols);
void run_probe(Context& context, const Probe& probe, int64_t heads);

}  // namespace tokensieve::cpu
