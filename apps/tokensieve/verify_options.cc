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
               "  tokensieve verify tests/golden --backend cpu/avx2 --json\n");
}

}  // namespace tokensieve::cli
