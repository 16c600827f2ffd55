#include <unistd.h>

#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {

void RowMatrix::write_rows(int64_t row0, Tensor from) {
  ISR_ASSERT(from.contiguous() && from.cols == rows.cols && from.dtype == rows.dtype && row0 + from.rows <= rows.rows, "write_rows: (", from.rows, ", ",
             from.cols, ") at row ", row0, " of (", rows.rows, ", ", rows.cols, ")");
  device_.copy(rows.at(row0), from.data, static_cast<size_t>(from.rows * from.cols) * size_of(from.dtype));
}

void RowMatrix::read_rows(Tensor to, int64_t row0) const {
  ISR_ASSERT(to.contiguous() && to.cols == rows.cols && to.dtype == rows.dtype && row0 + to.rows <= rows.rows, "read_rows: (", to.rows, ", ", to.cols,
             ") at row ", row0, " of (", rows.rows, ", ", rows.cols, ")");
  device_.copy(to.data, rows.at(row0), static_cast<size_t>(to.rows * to.cols) * size_of(to.dtype));
}

CudaBackend::CudaBackend(int index) : device_(index), scratch_(device_), products_(make_products(device_)), graphs_(device_) {}
CudaBackend::CudaBackend(Device& counting) : device_(counting), scratch_(device_), products_(make_products(device_)), graphs_(device_) {}
CudaBackend::~CudaBackend() = default;

size_t CudaBackend::matrix_bytes(const MatrixShape& s) const { return static_cast<size_t>(s.n * s.k) * size_of(s.dtype); }
std::unique_ptr<Matrix> CudaBackend::matrix(const MatrixShape& s, void* memory) { return std::make_unique<RowMatrix>(device_, s, memory); }

// Whether there may be a card: the driver's device files, or those of Windows below WSL.
bool driver_is_here() {
  return access("/dev/nvidiactl", F_OK) == 0 || access("/dev/dxg", F_OK) == 0;
}

}  // namespace isr::cuda

namespace isr {

DeviceKind cuda_kind() {
  return {"cuda", [](int, int index) -> std::unique_ptr<Backend> { return std::make_unique<cuda::CudaBackend>(index); },
          [](int, Device& counting) -> std::unique_ptr<Backend> { return std::make_unique<cuda::CudaBackend>(counting); }, cuda::driver_is_here, cuda::cards,
          [](int index) -> std::shared_ptr<Device> { return std::make_shared<cuda::CudaDevice>(index); }, cuda::lt::installed};
}

}  // namespace isr
