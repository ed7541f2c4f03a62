#include <algorithm>
#include <array>

#include "eval/draft.h"

namespace tokensieve::eval {
namespace {

// From here on a different case than before would be a different benchmark: raise it then.
constexpr uint64_t kFormat = 1;

struct Task {
  std::string_view name;
  Draft (*draft)(Setting&);
  int32_t answer_tokens;
};

constexpr std::array<Task, 9> kTasks = {{
    {"single_needle", single_needle, 16},
    {"multi_key", multi_key, 16},
    {"multi_value", multi_value, 48},
    {"multi_query", multi_query, 48},
    {"variable_tracking", variable_tracking, 80},
    {"common_words", common_words, 64},
    {"frequent_words", frequent_words, 48},
    {"qa", qa, 16},
    {"text", text, 0},
}};

const Task* find_task(std::string_view name) {
  const auto found = std::find_if(kTasks.begin(), kTasks.end(),
                                  [&](const Task& task) { return task.name == name; });
  return found == kTasks.end() ? nullptr : &*found;
}

Status unknown_task(const std::string& name) {
  std::string names;
  for (const Task& task : kTasks) names += (names.empty() ? "" : ", ") + std::string(task.name);
  return Status::error(StatusCode::kInvalidArgument, "there is no task \"%s\"; allowed: %s",
                       name.c_str(), names.c_str());
}

Random case_random(const Task& task, int32_t length, int32_t index, uint64_t seed) {
  uint64_t mixed = mix_seed(mix_seed(kFormat, seed), task.name);
  mixed = mix_seed(mixed, static_cast<uint32_t>(length));
  return Random(mix_seed(mixed, static_cast<uint32_t>(index)));
}

}  // namespace

std::vector<std::string_view> task_names() {
  std::vector<std::string_view> names;
  for (const Task& task : kTasks) names.push_back(task.name);
  return names;
}

int32_t answer_tokens(const std::string& task) { return find_task(task)->answer_tokens; }

Result<Case> make_case(const std::string& name, int32_t length, int32_t index, uint64_t seed,
                       const CountTokens& count) {
  const Task* task = find_task(name);
  if (task == nullptr) return unknown_task(name);
  if (index < 0) {
    return Status::error(StatusCode::kInvalidArgument, "case %d; allowed: 0 and more", index);
  }
  Setting setting{length, index, case_random(*task, length, index, seed), {}};
  const auto kinds = filler_kinds();
  Result<Filler> filler = load_filler(kinds[static_cast<size_t>(index) % kinds.size()]);
  if (!filler.ok()) return filler.status();
  const auto cuts = static_cast<uint32_t>(filler->cuts.size());
  setting.filler = rotate(*filler, setting.random.below(cuts));

  Draft draft = task->draft(setting);
  const Result<size_t> size = fit(draft, name, length, count);
  if (!size.ok()) return size.status();
  Case item{.task = name, .length = length, .index = index, .seed = seed};
  item.filler = setting.filler.kind;
  item.document = draft.document(*size);
  item.question = std::move(draft.question);
  item.follow_ups = std::move(draft.follow_ups);
  if (!draft.landmark.empty()) {
    item.depth = static_cast<double>(item.document.find(draft.landmark)) /
                 static_cast<double>(item.document.size());
  }
  if (item.question.text.empty()) {
    item.continuation = setting.filler.text.substr(item.document.size(), kContinuationBytes);
  }
  return item;
}

}  // namespace tokensieve::eval
