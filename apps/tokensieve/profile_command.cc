#include "profile_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "common/command.h"
#include "drift.h"
#include "common/files.h"
#include "common/session.h"
#include "common/sparse_layers.h"
#include "common/terminal.h"

namespace tokensieve::cli {
namespace {

constexpr int kChartCells = 40;

// What the command found out.
struct Measured {
  Profile profile;
  SparseLayers layers;
};

std::string drift_chart(const Profile& profile) {
  const double most = *std::max_element(profile.drift.begin(), profile.drift.end());
  std::string text = "Drift per layer (share of the sum; * runs sparse):\n";
  for (size_t l = 0; l < profile.drift.size(); ++l) {
    text += fmt::format("  {:>3} {} ▕{}▏ {:.4f}\n", l,
                        profile.is_sparse(static_cast<int32_t>(l)) ? '*' : ' ',
                        bar(profile.drift[l] / most, kChartCells), profile.drift[l]);
  }
  return text;
}

// The layers of --layers. Error: one of them can never run sparse.
Result<std::vector<int32_t>> layers_by_hand(const ProfileOptions& options,
                                            const SparseLayers& can) {
  std::vector<int32_t> never;
  const Result<std::vector<int32_t>> layers = parse_layers(options.layers, can.num_layers);
  if (!layers.ok()) return layers;
  std::set_difference(layers->begin(), layers->end(), can.layers.begin(), can.layers.end(),
                      std::back_inserter(never));
  if (never.empty()) return layers;
  return Status::error(StatusCode::kInvalidArgument, "--layers %s names %s; allowed: %s (%s)",
                       options.layers.c_str(), format_layers(never).c_str(),
                       format_layers(can.layers).c_str(), always_dense(can).c_str());
}

Result<Measured> measure(const ProfileOptions& options) {
  Result<std::string> text = read_text(options.text);
  if (!text.ok()) return text.status();
  Result<Session> session = start_session(options.model, options.verbose);
  if (!session.ok()) return session.status();
  const LlamaModel& model = session->model;
  Plugin& plugin = *session.value().plugin;

  Profile profile;
  profile.model = model.source().name;
  profile.fingerprint = model.fingerprint();
  profile.select = options.select;
  profile.min_tokens = options.min_tokens;
  if (!options.layers.empty()) {  // before the measurement: a typo must not cost minutes
    TOKENSIEVE_RETURN_IF_ERROR(parse_layers(options.layers, model.num_layers()).status());
  }
  // Checks the selection too (a window that is no multiple of 64, an even pool width).
  const Result<Profile> valid = parse_profile(profile_to_json(profile), "the profile's options");
  if (!valid.ok()) return valid.status();
  Result<SparseLayers> can = find_sparse_layers(model, plugin);
  if (!can.ok()) return can.status();
  TOKENSIEVE_RETURN_IF_ERROR(plugin.configure(TOKENSIEVE_GGML_OFF, nullptr));
  Result<std::vector<int32_t>> by_hand = std::vector<int32_t>();
  if (!options.layers.empty()) by_hand = layers_by_hand(options, *can);
  if (!by_hand.ok()) return by_hand.status();
  Result<std::vector<double>> drift = measure_drift(model, *text, options.max_tokens);
  if (!drift.ok()) return drift.status();
  profile.drift = std::move(drift.value());
  profile.sparse_layers = options.layers.empty()
                              ? low_drift_layers(profile.drift, can->layers, options.delta)
                              : std::move(by_hand.value());
  return Measured{std::move(profile), std::move(can.value())};
}

}  // namespace

int run_profile(const ProfileOptions& options) {
  if (!options.output.empty()) {  // before minutes of measurement
    if (const Status status = check_writable(options.output); !status.ok()) return fail(status);
  }
  const Result<Measured> measured = measure(options);
  if (!measured.ok()) return fail(measured.status());
  const Profile& profile = measured->profile;
  const std::string json = profile_to_json(profile);
  // The chart goes where people look and the JSON does not.
  std::string chart = fmt::format("{}sparse layers: {}\n", drift_chart(profile),
                                  format_layers(profile.sparse_layers));
  if (const std::string dense = always_dense(measured->layers); !dense.empty()) {
    chart += fmt::format("always dense: {}\n", dense);
  }
  if (options.output.empty()) {
    write_err(chart);
    write_out(json);
    return kExitOk;
  }
  write_out(chart);
  const Status written = write_atomically(options.output, json);
  if (!written.ok()) return fail(written);
  print_out("wrote {}\n", options.output);
  return kExitOk;
}

}  // namespace tokensieve::cli
