#include "verify_options.h"

#include "common/options.h"

namespace tokensieve::cli {

void add_verify_options(CLI::App& command, verify::VerifyOptions& options) {
  command
      .add_option("DIR", options.dir,
                  "folder of golden *.safetensors files; default: TOKENSIEVE_GOLDEN_DIR")
      ->type_name("");
  command
      .add_option("--backend", options.backends,
                  "only these: ref, cpu, one instruction set such as cpu/avx2, or cuda")
      ->type_name("NAME")
      ->delimiter(',');
  command.add_flag("--json", options.json, "print one JSON object a line");
  add_examples(command,
               "  tokensieve verify tests/golden\n"
               "  tokensieve verify tests/golden --backend cpu/avx2 --json\n"
               "  tokensieve verify tests/golden/blocks\n");
  command.footer(command.get_footer() +
                 "\nFiles called official_* or blocks_* hold block masks. Their inputs are made from\n"
                 "the .json beside them, and every estimator is held against its mask:\n"
                 "Jaccard >= .98 and, where the official code's scores are recorded, the same choice\n"
                 "for every tile that is farther from its threshold than bf16's error, 1/256 of its\n"
                 "row's mass. Masks of exact arithmetic (\"rounding\": \"exact\"): equal for ref,\n"
                 "Jaccard >= .99 for other backends.\n");
}

}  // namespace tokensieve::cli
