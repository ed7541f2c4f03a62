// The lines of a run file: one struct each, whose members() are what stands in the file. One JSON
// object a line; readers skip types and keys that they do not know (docs/evaluation.md, "File
// format"). Python writes the same lines: adapters/python/tokensieve/evaluate.py.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "eval/metrics.h"
#include "tokensieve/status.h"

namespace tokensieve::eval {

using Json = nlohmann::ordered_json;

inline constexpr int32_t kFormat = 1;

// members(line, visit) calls visit(name, member) in the order of the file, and visit.required(...)
// for what a reader cannot do without. Not written: absent values, empty texts and lists, and null,
// but for what is visit.always(...).

struct Machine {
  std::string cpu;
  int32_t threads = 0;
  std::string gpu;
};
template <typename Visit>
void members(Machine& m, Visit& visit) {
  visit("cpu", m.cpu);
  visit("threads", m.threads);
  visit("gpu", m.gpu);
}

struct ModelLine {
  std::string name = "unknown model";
  std::string file;
  int64_t bytes = 0;
  Json fingerprint;
  int32_t context = 0;
  std::string system;
  std::string lora;
  std::optional<double> rope_scale;
};
template <typename Visit>
void members(ModelLine& m, Visit& visit) {
  visit("name", m.name);
  visit("file", m.file);
  visit("bytes", m.bytes);
  visit("fingerprint", m.fingerprint);
  visit("context", m.context);
  visit.always("system", m.system);
  visit("lora", m.lora);
  visit("rope_scale", m.rope_scale);
}

// A way to run the model.
struct ConfigLine {
  std::string name;
  std::string kind;  // "stock", "dense", "sparse" or a baseline
  std::string mode;  // "whole", "chunk"; empty: does not apply
  std::optional<int32_t> chunk;  // tokens that are read at a time, where they are not the usual
  std::optional<bool> gate;  // runs dense where dense is predicted to be faster
  std::optional<int32_t> filter_layer;
  std::optional<bool> equal_work;
  std::string products;  // of dense attention; else the profile's
  Json profile;  // null: none
  std::string note;
};
template <typename Visit>
void members(ConfigLine& c, Visit& visit) {
  visit.required("name", c.name);
  visit("kind", c.kind);
  visit("mode", c.mode);
  visit("chunk", c.chunk);
  visit("gate", c.gate);
  visit("filter_layer", c.filter_layer);
  visit("equal_work", c.equal_work);
  visit("products", c.products);
  visit("profile", c.profile);
  visit.always("note", c.note);
}

// The first line of a file: "run", or "cases" (--write-cases).
struct HeaderLine {
  std::string type = "run";
  int32_t format = kFormat;
  std::string tool;
  std::string date;
  std::string command;
  std::optional<Machine> machine;
  ModelLine model;
  uint64_t seed = 0;
  std::vector<std::string> tasks;
  std::vector<int32_t> lengths;
  int32_t cases = 0;
  std::vector<ConfigLine> configs;
  Json tune;  // limits of `tokensieve tune`
};
template <typename Visit>
void members(HeaderLine& h, Visit& visit) {
  visit.required("type", h.type);
  visit.required("format", h.format);
  visit("tool", h.tool);
  visit("date", h.date);
  visit("command", h.command);
  visit("machine", h.machine);
  visit("model", h.model);
  visit("seed", h.seed);
  visit("tasks", h.tasks);
  visit("lengths", h.lengths);
  visit("cases", h.cases);
  visit("configs", h.configs);
  visit("tune", h.tune);
}

// What a line about one case begins with.
struct CaseLine {
  std::string task;
  int32_t length = 0;  // wanted prompt tokens
  int32_t index = 0;
  std::string config;
};
template <typename Visit>
void case_members(CaseLine& c, Visit& visit) {
  visit.required("task", c.task);
  visit.required("length", c.length);
  visit.required("case", c.index);
  visit.required("config", c.config);
}

struct FollowUp {
  std::string question;
  std::vector<std::string> expected;
  std::string answer;
  std::optional<double> score;
};
template <typename Visit>
void members(FollowUp& f, Visit& visit) {
  visit("question", f.question);
  visit("expected", f.expected);
  visit("answer", f.answer);
  visit("score", f.score);
}

struct LayerResult {
  int32_t layer = 0;
  double keep_ratio = 1;
  double work = 1;  // computed / causal (query, key) pairs
  double attention_ms = 0;
  std::optional<double> block_density;  // visited / visible tiles, where a mask left some out
  std::string reason;  // why it ran dense

  bool ran_sparse() const { return reason.empty(); }
};
template <typename Visit>
void members(LayerResult& l, Visit& visit) {
  visit.required("layer", l.layer);
  visit("keep_ratio", l.keep_ratio);
  visit("work", l.work);
  visit("attention_ms", l.attention_ms);
  visit("block_density", l.block_density);
  visit("reason", l.reason);
}

template <typename Visit>
void members(Metrics& m, Visit& visit) {
  visit("tokens", m.tokens);
  visit.required("kl", m.kl);
  visit("kl_max", m.kl_max);
  visit.required("top1", m.top1);
  visit.required("nll", m.nll);
  visit.required("nll_dense", m.nll_dense);
}

// "result": one case, answered with one configuration. Absent numbers do not apply; an absent score
// of an answer is worked out by whoever reads the line.
struct CaseResult : CaseLine {
  static constexpr const char* kType = "result";
  std::string filler;
  std::optional<double> depth;  // 0 to 1: where the needle stands
  int32_t prompt_tokens = 0;
  std::vector<std::string> expected;
  std::string answer;
  std::optional<double> score;
  std::vector<FollowUp> follow_ups;
  std::optional<double> prefill_ms;
  std::optional<double> attention_ms;
  std::optional<double> generate_ms;
  std::optional<double> keep_ratio;  // mean over sparse layers
  std::optional<double> work;        // mean over all layers of the model
  std::optional<double> block_density;  // mean over the layers whose block masks left tiles out
  std::string products;  // that ran, unless they were exact as asked for
  std::vector<LayerResult> layers;
  std::optional<Metrics> metrics;
  std::string reused;  // whose result this is: it would have run the same
  int32_t run = 0;     // not in the file: which of the pooled runs it is from

  // The same for every configuration that answered the case.
  using Key = std::tuple<int32_t, std::string, int32_t, int32_t>;
  Key key() const { return {run, task, length, index}; }
};
template <typename Visit>
void members(CaseResult& r, Visit& visit) {
  case_members(r, visit);
  visit("filler", r.filler);
  visit("depth", r.depth);
  visit("prompt_tokens", r.prompt_tokens);
  visit("expected", r.expected);
  visit("answer", r.answer);
  visit("score", r.score);
  visit("follow_ups", r.follow_ups);
  visit("prefill_ms", r.prefill_ms);
  visit("attention_ms", r.attention_ms);
  visit("generate_ms", r.generate_ms);
  visit("keep_ratio", r.keep_ratio);
  visit("work", r.work);
  visit("block_density", r.block_density);
  visit("products", r.products);
  visit("layers", r.layers);
  visit("metrics", r.metrics);
  visit("reused", r.reused);
}

// Per set: inclusive ranges of positions, ascending.
struct KeptLayer {
  int32_t layer = 0;
  int32_t num_sets = 0;
  std::vector<std::vector<std::pair<int32_t, int32_t>>> sets;
};
template <typename Visit>
void members(KeptLayer& l, Visit& visit) {
  visit.required("layer", l.layer);
  visit("sets", l.num_sets);
  visit.required("kept", l.sets);
}

// "kept": which tokens of one prompt each layer kept.
struct KeptTokens : CaseLine {
  static constexpr const char* kType = "kept";
  std::vector<std::string> tokens;
  std::vector<KeptLayer> layers;
};
template <typename Visit>
void members(KeptTokens& k, Visit& visit) {
  case_members(k, visit);
  visit.required("tokens", k.tokens);
  visit("layers", k.layers);
}

// "drift": how much each layer changes its tokens.
struct DriftLine {
  static constexpr const char* kType = "drift";
  std::vector<double> layers;
};
template <typename Visit>
void members(DriftLine& d, Visit& visit) {
  visit.required("layers", d.layers);
}

// Layers that keep less than the others of a candidate.
struct ThinLayers {
  std::vector<int32_t> layers;
  std::string rung;
  Json select;
};
template <typename Visit>
void members(ThinLayers& t, Visit& visit) {
  visit.required("layers", t.layers);
  visit("rung", t.rung);
  visit("select", t.select);
}

// "tune": one candidate of `tokensieve tune`.
struct TuneStep {
  static constexpr const char* kType = "tune";
  int32_t step = 0;
  std::vector<int32_t> layers;
  std::string rung;
  Json select;
  double work = 1;  // in lines dated before 2026-11-28T08:00Z estimated
  double kl = 0;
  std::optional<double> loss;  // points, once answers were compared
  bool chosen = false;
  std::optional<ThinLayers> thin;
};
template <typename Visit>
void members(TuneStep& t, Visit& visit) {
  visit("step", t.step);
  visit("layers", t.layers);
  visit("rung", t.rung);
  visit("select", t.select);
  visit.required("work", t.work);
  visit("kl", t.kl);
  visit("chosen", t.chosen);
  visit("thin", t.thin);
  visit("loss", t.loss);
}

// "resolved" (--write-cases): what a configuration runs on a prompt of so many tokens.
struct ResolvedLine {
  static constexpr const char* kType = "resolved";
  std::string config;
  int32_t tokens = 0;
  bool always_sparse = false;
  int32_t dense_rows = 0;      // so many last rows are computed densely
  std::optional<double> work;  // of a sparse layer, where dense rows count
  Json profile;                // null: dense
};
template <typename Visit>
void members(ResolvedLine& r, Visit& visit) {
  visit.required("config", r.config);
  visit.required("tokens", r.tokens);
  visit("always_sparse", r.always_sparse);
  visit("dense_rows", r.dense_rows);
  visit("work", r.work);
  visit("profile", r.profile);
}

// The object of a line.
template <typename Line>
Json to_json(const Line& line);

// Error: the first member that is missing or not what it should be. `where`: file and line.
template <typename Line>
Status read_line(const Json& json, const std::string& where, Line& line);

}  // namespace tokensieve::eval
