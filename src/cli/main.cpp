// nibble: quantize a model, and see what it costs.
#include "tool.h"

int main(int argc, char** argv) {
  nibble::cli::prepare_process();
  return nibble::cli::run_tool(argc, argv);
}
