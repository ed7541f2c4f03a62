// The command line: every command is registered here, and nowhere else.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <sstream>

#include "ask.h"
#include "bench_command.h"
#include "common/command.h"
#include "eval_command.h"
#include "tune_command.h"
#include "exec.h"
#include "help.h"
#include "info.h"
#include "common/options.h"
#include "profile_command.h"
#include "report_command.h"
#include "common/signals.h"
#include "tokensieve/version.h"
#include "verify/verify.h"
#include "verify_options.h"

namespace tokensieve::cli {
namespace {

template <typename Options>
void add_command(CLI::App& app, const char* name, const char* summary,
                 void (*add_options)(CLI::App&, Options&), int (*run)(const Options&),
                 int& exit_code) {
  CLI::App* command = app.add_subcommand(name, summary);
  auto options = std::make_shared<Options>();
  add_options(*command, *options);
  command->callback([options, run, &exit_code] { exit_code = run(*options); });
}

int run(int argc, char** argv) {
  hold_standard_streams();
  CLI::App app("Token Sparse Attention: long prompts read faster, with the same answers.",
               "tokensieve");
  app.set_version_flag("--version", "tokensieve " TOKENSIEVE_VERSION_STRING);
  app.require_subcommand(1);
  app.formatter(std::make_shared<HelpFormatter>());
  add_examples(app,
               "  tokensieve ask smollm2 --file report.md --compare \"Who signed the contract?\"\n"
               "  tokensieve COMMAND --help\n");
  int exit_code = kExitOk;
  add_command<AskOptions>(app, "ask", "answer a question over long documents", add_ask_options,
                          run_ask, exit_code);
  add_command<ProfileOptions>(app, "profile", "measure a model and write its layer profile",
                              add_profile_options, run_profile, exit_code);
  add_command<EvalOptions>(app, "eval", "measure what selection does to answers and speed",
                           add_eval_options, run_eval, exit_code);
  add_command<TuneOptions>(app, "tune", "find the layer profile that saves most within a budget",
                           add_tune_options, run_tune, exit_code);
  add_command<ReportOptions>(app, "report", "show run files of eval as one page",
                             add_report_options, run_report, exit_code);
  add_command<BenchOptions>(app, "bench", "measure the stages and whole layers on this machine",
                            add_bench_options, run_bench, exit_code);
  add_command<verify::VerifyOptions>(app, "verify",
                             "check every backend against golden files, stage by stage",
                             add_verify_options, verify::run_verify, exit_code);
  add_command<ExecOptions>(app, "exec", "run a llama.cpp program with the plug-in loaded",
                           add_exec_options, run_exec, exit_code);
  add_command<InfoOptions>(app, "info", "show what this build and this machine have",
                           add_info_options, run_info, exit_code);
  install_interrupt_handler();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out, err;
    exit_code = app.exit(error, out, err) == 0 ? kExitOk : kExitUsage;
    write_out(out.str());
    write_err(err.str());
  }
  // The one end of every command: what was not written is no success.
  const Status written = flush_output();
  return written.ok() || exit_code != kExitOk ? exit_code : fail(written);
}

}  // namespace
}  // namespace tokensieve::cli

int main(int argc, char** argv) { return tokensieve::cli::run(argc, argv); }
