#include "core/backend_table.h"
namespace tokensieve { extern const BackendOps kCpuOps; const BackendOps kCpuOps = {}; 
const char* isa_name(Isa){return "";} }
