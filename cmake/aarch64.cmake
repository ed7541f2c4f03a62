# Compiles for AArch64 with Debian's cross compiler and runs the results in qemu-user
# (setup/packages.sh --aarch64 installs both).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
find_program(TOKENSIEVE_QEMU NAMES qemu-aarch64 qemu-aarch64-static REQUIRED)
# A plain ARMv8.0 core: an instruction of a later one stops the test. Libraries are the cross
# compiler's.
set(CMAKE_CROSSCOMPILING_EMULATOR ${TOKENSIEVE_QEMU} -cpu cortex-a72 -L /usr/aarch64-linux-gnu)
