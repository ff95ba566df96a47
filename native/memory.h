// Memory for buffers and pages.
#pragma once
#include <cstddef>
#include <cstdint>

namespace argosy {

// 64-byte aligned memory that starts as zeros and is touched only when used.
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes);
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  ~Memory();
  uint8_t* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace argosy
