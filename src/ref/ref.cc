#include "core/backend_table.h"
namespace tokensieve { extern const BackendOps kRefOps; const BackendOps kRefOps = {}; }
