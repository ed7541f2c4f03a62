#include "report_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/command.h"
#include "common/files.h"
#include "common/options.h"
#include "common/profiles.h"
#include "eval/report/example.h"
#include "eval/report/page.h"
#include "eval/report/page_data.h"
#include "eval/report/pool.h"
#include "eval/report/summary.h"
#include "common/terminal.h"

namespace tokensieve::cli {
namespace {

namespace report = eval::report;

Result<std::vector<report::EvalRun>> read_runs(const std::vector<std::string>& paths) {
  std::vector<report::EvalRun> runs;
  for (const std::string& path : paths) {
    Result<report::EvalRun> run = report::read_run(path);
    if (!run.ok()) return run.status();
    if (run->results.empty() && run->tune.empty()) {
      return Status::error(StatusCode::kDataError,
                           "%s holds a header but no finished case; let `tokensieve eval` finish "
                           "one, or leave the file out",
                           path.c_str());
    }
    runs.push_back(std::move(run.value()));
  }
  runs = report::join_parts(std::move(runs));
  for (const report::EvalRun& run : runs) {
    for (const std::string& warning : report::warnings_of(run)) {
      print_err("tokensieve: {}\n", warning);
    }
  }
  return runs;
}

void print_search(const report::EvalRun& run, bool color) {
  print_out("{}  {} candidates of tune from {}\n", bold(run.model, color), run.tune.size(),
            run.path);
  for (const eval::TuneStep& step : run.tune) {
    if (!step.chosen) continue;
    const std::string thin =
        step.thin ? fmt::format(" ({} keep less)", format_layers(step.thin->layers)) : "";
    print_out("chosen: layers {}{}, work {:.1f} %, KL {:.4f}\n", format_layers(step.layers), thin,
              100 * step.work, step.kl);
  }
}

void print_summary(const report::EvalRun& run, bool color) {
  if (run.results.empty()) return print_search(run, color);
  print_out("{}  {} results from {}\n{}\n", bold(run.model, color), run.results.size(), run.path,
            report::summary_table(report::summarize(run)));
}

int print_pool(const std::vector<report::EvalRun>& runs) {
  const Result<report::EvalRun> run = report::pool(runs);
  if (!run.ok()) return fail(run.status());
  print_out("{}  {} results from {}\n{}", bold(run->model, wants_color(STDOUT_FILENO)),
            run->results.size(), run->path, report::pooled_table(*run));
  return kExitOk;
}

int write_example(const std::string& path) {
  const Status written = write_atomically(path, report::example_run());
  if (!written.ok()) return fail(written);
  print_out("wrote {}\n", path);
  return kExitOk;
}

// Hands the page to the desktop's browser; returns only if there is none.
int open_page(const std::string& path) {
  if (const Status status = flush_output(); !status.ok()) return fail(status);
  ::execlp("xdg-open", "xdg-open", path.c_str(), nullptr);
  return fail(Status::error(StatusCode::kNotFound,
                            "cannot start xdg-open: %s; open %s in a browser yourself",
                            std::strerror(errno), path.c_str()));
}

}  // namespace

void add_report_options(CLI::App& command, ReportOptions& options) {
  command
      .add_option("RUN", options.runs,
                  "run files (JSON lines) of `tokensieve eval` or `tune`; - for standard input")
      ->type_name("");
  command.add_option("-o,--output", options.output, "page to write")
      ->type_name("FILE")
      ->capture_default_str();
  command.add_option("--title", options.title, "heading of the page")
      ->type_name("TEXT")
      ->capture_default_str();
  command.add_flag("--open", options.open, "then show the page in the browser");
  command.add_flag("--pool", options.pool,
                   "count runs of several seeds as one: prints a table with intervals, no page");
  command
      .add_option("--example", options.example,
                  "write a run of invented numbers here, to see every section of the page")
      ->type_name("FILE");
  command.parse_complete_callback([&options] {
    if (options.runs.empty() && options.example.empty()) throw CLI::RequiredError("RUN");
  });
  add_examples(command,
               "  tokensieve eval smollm2 -o run.jsonl\n"
               "  tokensieve report run.jsonl -o report.html --open\n"
               "  tokensieve report cpu.jsonl gpu.jsonl --title \"SmolLM2 on two machines\"\n"
               "  tokensieve report --pool seed1.jsonl seed2.jsonl\n"
               "  tokensieve report --example run.jsonl\n"
               "\n"
               "The page is one file that needs no network: it can be mailed, archived and "
               "printed. It shows\n"
               "the headline numbers that are also printed here, accuracy against time, needles "
               "by depth, KL,\n"
               "every layer and task, and which tokens of a prompt each layer kept.\n");
}

int run_report(const ReportOptions& options) {
  if (!options.example.empty()) return write_example(options.example);
  if (!options.pool) {
    if (const Status status = check_writable(options.output); !status.ok()) return fail(status);
  }
  const Result<std::vector<report::EvalRun>> runs = read_runs(options.runs);
  if (!runs.ok()) return fail(runs.status());
  if (options.pool) return print_pool(*runs);
  const std::string page = report::render_page(options.title, report::page_data(*runs));
  const Status written = write_atomically(options.output, page);
  if (!written.ok()) return fail(written);
  for (const report::EvalRun& run : *runs) print_summary(run, wants_color(STDOUT_FILENO));
  print_out("wrote {} ({:.1f} MB)\n", options.output, static_cast<double>(page.size()) / 1e6);
  return options.open ? open_page(options.output) : kExitOk;
}

}  // namespace tokensieve::cli
