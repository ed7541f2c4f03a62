/* A C program that knows tokensieve only through pkg-config. */
#include <stdio.h>
#include <tokensieve/tokensieve_c.h>

int main(void) {
  tokensieve_shape shape;
  tokensieve_shape_init(&shape);
  shape.seqlen_q = shape.seqlen_kv = 64;
  shape.num_q_heads = shape.num_kv_heads = 1;
  shape.head_dim = 16;
  tokensieve_status status;
  tokensieve_status_init(&status);
  tokensieve_plan* plan = NULL;
  if (tokensieve_make_plan(&shape, NULL, NULL, &plan, &status) != TOKENSIEVE_OK) {
    fprintf(stderr, "%s\n", status.message);
    return 1;
  }
  printf("tokensieve %s, workspace %zu bytes\n", tokensieve_version(),
         tokensieve_workspace_bytes(plan));
  tokensieve_plan_free(plan);
  return 0;
}
