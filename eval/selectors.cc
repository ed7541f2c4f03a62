#include "eval/selectors.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "eval/random.h"

namespace tokensieve::eval {
namespace {

std::span<int32_t> set_of(tokensieve_ggml_selection& s, int32_t set) {
  return {s.kept + set * s.capacity, static_cast<size_t>(s.count)};
}

int64_t newest(const tokensieve_ggml_selection& s) { return s.tokens - s.prefix; }

class RandomSelector : public Selector {
 public:
  explicit RandomSelector(uint64_t seed) : seed_(seed) {}

  bool select(tokensieve_ggml_selection& s) override {
    Random random(seed_ ^ (static_cast<uint64_t>(s.layer) << 32));
    for (int32_t set = 0; set < s.sets; ++set) {
      const std::span<int32_t> kept = set_of(s, set);
      // Selection sampling: every prefix token is passed once, so the draw ascends.
      int64_t wanted = s.count - newest(s);
      size_t written = 0;
      for (int64_t token = 0; wanted > 0; ++token) {
        const auto left = static_cast<uint64_t>(s.prefix - token);
        if (random.next() % left >= static_cast<uint64_t>(wanted)) continue;
        kept[written++] = static_cast<int32_t>(token);
        --wanted;
      }
      std::iota(kept.begin() + static_cast<ptrdiff_t>(written), kept.end(),
                static_cast<int32_t>(s.prefix));
    }
    return true;
  }

 private:
  uint64_t seed_;
};

class RecentSelector : public Selector {
 public:
  explicit RecentSelector(int32_t sinks) : sinks_(sinks) {}

  bool select(tokensieve_ggml_selection& s) override {
    const int64_t sinks = std::min<int64_t>(sinks_, s.count - newest(s));
    for (int32_t set = 0; set < s.sets; ++set) {
      const std::span<int32_t> kept = set_of(s, set);
      const auto middle = kept.begin() + sinks;
      std::iota(kept.begin(), middle, 0);
      std::iota(middle, kept.end(), static_cast<int32_t>(s.tokens - (s.count - sinks)));
    }
    return true;
  }

 private:
  int32_t sinks_;
};

void write_sets(const KeptSets& from, tokensieve_ggml_selection& s) {
  s.count = static_cast<int64_t>(from.sets.front().size());
  for (int32_t set = 0; set < s.sets; ++set) {
    const auto& source = from.sets[static_cast<size_t>(set)];
    std::copy(source.begin(), source.end(), s.kept + set * s.capacity);
  }
}

bool fits(const KeptSets& from, const tokensieve_ggml_selection& s) {
  return from.tokens == s.tokens && static_cast<int32_t>(from.sets.size()) == s.sets &&
         static_cast<int64_t>(from.sets.front().size()) <= s.capacity;
}

class OnceSelector : public Selector {
 public:
  bool select(tokensieve_ggml_selection& s) override {
    if (first_.sets.empty() || !fits(first_, s)) {
      first_ = copy_sets(s);
    } else {
      write_sets(first_, s);
    }
    return true;
  }

 private:
  KeptSets first_;
};

class ReplaySelector : public Selector {
 public:
  explicit ReplaySelector(const KeptByLayer& sets) : sets_(sets) {}

  bool select(tokensieve_ggml_selection& s) override {
    const auto found = sets_.find(s.layer);
    if (found == sets_.end() || !fits(found->second, s)) return false;
    write_sets(found->second, s);
    return true;
  }

 private:
  const KeptByLayer& sets_;
};

class RecordingSelector : public Selector {
 public:
  RecordingSelector(KeptByLayer& sets, bool dense, std::function<void(int32_t)> on_layer)
      : sets_(sets), dense_(dense), on_layer_(std::move(on_layer)) {}

  bool select(tokensieve_ggml_selection& s) override {
    sets_[s.layer] = copy_sets(s);
    if (on_layer_) on_layer_(s.layer);
    return !dense_;
  }

 private:
  KeptByLayer& sets_;
  bool dense_;
  std::function<void(int32_t)> on_layer_;
};

class InspectingSelector : public Selector {
 public:
  InspectingSelector(std::unique_ptr<Selector> inner, KeptByLayer& sets)
      : inner_(std::move(inner)), sets_(sets) {}

  bool select(tokensieve_ggml_selection& s) override {
    if (inner_ && !inner_->select(s)) return false;
    sets_[s.layer] = copy_sets(s);
    return true;
  }

 private:
  std::unique_ptr<Selector> inner_;
  KeptByLayer& sets_;
};

}  // namespace

KeptSets copy_sets(const tokensieve_ggml_selection& s) {
  KeptSets copy{.tokens = s.tokens};
  for (int32_t set = 0; set < s.sets; ++set) {
    const int32_t* row = s.kept + set * s.capacity;
    copy.sets.emplace_back(row, row + s.count);
  }
  return copy;
}

int Selector::hook(tokensieve_ggml_selection* selection, void* user) {
  return static_cast<Selector*>(user)->select(*selection) ? 1 : 0;
}

std::unique_ptr<Selector> random_selector(uint64_t seed) {
  return std::make_unique<RandomSelector>(seed);
}
std::unique_ptr<Selector> recent_selector(int32_t sinks) {
  return std::make_unique<RecentSelector>(sinks);
}
std::unique_ptr<Selector> once_selector() { return std::make_unique<OnceSelector>(); }
std::unique_ptr<Selector> replay_selector(const KeptByLayer& sets) {
  return std::make_unique<ReplaySelector>(sets);
}
std::unique_ptr<Selector> recording_selector(KeptByLayer& sets, bool dense,
                                             std::function<void(int32_t)> on_layer) {
  return std::make_unique<RecordingSelector>(sets, dense, std::move(on_layer));
}
std::unique_ptr<Selector> inspecting_selector(std::unique_ptr<Selector> inner, KeptByLayer& sets) {
  return std::make_unique<InspectingSelector>(std::move(inner), sets);
}

}  // namespace tokensieve::eval
