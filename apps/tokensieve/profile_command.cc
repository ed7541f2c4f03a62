#include "profile_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "common/command.h"
#include "drift.h"
#include "common/files.h"
#include "common/session.h"
#include "common/terminal.h"

namespace tokensieve::cli {
namespace {

constexpr int kChartCells = 40;

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

Result<Profile> make_profile(const ProfileOptions& options) {
  Result<std::string> text = read_text(options.text);
  if (!text.ok()) return text.status();
  const Result<Session> session =
      start_session(options.model, options.verbose, /*with_plugin=*/false);
  if (!session.ok()) return session.status();
  const LlamaModel& model = session->model;

  Profile profile;
  profile.model = model.source().name;
  profile.fingerprint = model.fingerprint();
  profile.select = options.select;
  profile.min_tokens = options.min_tokens;
  if (!options.layers.empty()) {  // before the measurement: a typo must not cost minutes
    Result<std::vector<int32_t>> layers =
        parse_layers(options.layers, profile.fingerprint.num_layers);
    if (!layers.ok()) return layers.status();
    profile.sparse_layers = std::move(layers.value());
  }
  // Checks the selection too (a window that is no multiple of 64, an even pool width).
  const Result<Profile> valid = parse_profile(profile_to_json(profile), "the profile's options");
  if (!valid.ok()) return valid.status();
  Result<std::vector<double>> drift = measure_drift(model, *text, options.max_tokens);
  if (!drift.ok()) return drift.status();
  profile.drift = std::move(drift.value());
  if (options.layers.empty())
    profile.sparse_layers = low_drift_layers(profile.drift, options.delta);
  return profile;
}

}  // namespace

int run_profile(const ProfileOptions& options) {
  if (!options.output.empty()) {  // before minutes of measurement
    if (const Status status = check_writable(options.output); !status.ok()) return fail(status);
  }
  const Result<Profile> profile = make_profile(options);
  if (!profile.ok()) return fail(profile.status());
  const std::string json = profile_to_json(*profile);
  // The chart goes where people look and the JSON does not.
  const std::string chart = fmt::format("{}sparse layers: {}\n", drift_chart(*profile),
                                        format_layers(profile->sparse_layers));
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
