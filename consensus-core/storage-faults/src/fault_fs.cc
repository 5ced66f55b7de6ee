// A RocksDB file system that asks before every operation that changes something on the disk.
//
// `ask` gets the operation, its path, its bytes (of an append) or second path (of a rename or link) and its
// size. It answers 0 to let it through, or an errno: EIO, or ENOSPC, before which half of an append is written.

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>

#include "rocksdb/env.h"
#include "rocksdb/file_system.h"

using namespace ROCKSDB_NAMESPACE;

namespace {

enum Operation : int { kCreate, kReopen, kAppend, kTruncate, kSync, kRename, kLink, kDelete, kSyncDirectory };

using Ask = int (*)(void* context, int operation, const char* path, size_t path_length, const char* bytes,
                    size_t length);
using Forget = void (*)(void* context);

struct Judge {
  void* context;
  Ask ask;
  Forget forget;

  ~Judge() { forget(context); }

  IOStatus operator()(Operation operation, const std::string& path, const Slice& bytes = Slice()) const {
    switch (ask(context, operation, path.data(), path.size(), bytes.data(), bytes.size())) {
      case 0:
        return IOStatus::OK();
      case ENOSPC:
        return IOStatus::NoSpace("injected: no space left", path);
      default:
        return IOStatus::IOError("injected: input/output error", path);
    }
  }
};

class File : public FSWritableFileOwnerWrapper {
 public:
  File(std::unique_ptr<FSWritableFile>&& file, std::string path, const Judge* judge)
      : FSWritableFileOwnerWrapper(std::move(file)), path_(std::move(path)), judge_(judge) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* debug) override {
    IOStatus judged = (*judge_)(kAppend, path_, data);
    if (judged.ok()) return target()->Append(data, options, debug);
    if (judged.IsNoSpace()) {
      target()->Append(Slice(data.data(), data.size() / 2), options, debug).PermitUncheckedError();
    }
    return judged;
  }
  IOStatus Append(const Slice& data, const IOOptions& options, const DataVerificationInfo&,
                  IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  IOStatus Truncate(uint64_t size, const IOOptions& options, IODebugContext* debug) override {
    const std::string text = std::to_string(size);
    IOStatus judged = (*judge_)(kTruncate, path_, text);
    return judged.ok() ? target()->Truncate(size, options, debug) : judged;
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    IOStatus judged = (*judge_)(kSync, path_);
    return judged.ok() ? target()->Sync(options, debug) : judged;
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    IOStatus judged = (*judge_)(kSync, path_);
    return judged.ok() ? target()->Fsync(options, debug) : judged;
  }

  // Room that is set aside beforehand is nothing that a power cut could leave, and costs the tests most of their time.
  void PrepareWrite(size_t, size_t, const IOOptions&, IODebugContext*) override {}
  IOStatus Allocate(uint64_t, uint64_t, const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }

 private:
  std::string path_;
  const Judge* judge_;
};

class Directory : public FSDirectoryWrapper {
 public:
  Directory(std::unique_ptr<FSDirectory>&& directory, std::string path, const Judge* judge)
      : FSDirectoryWrapper(std::move(directory)), path_(std::move(path)), judge_(judge) {}

  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    IOStatus judged = (*judge_)(kSyncDirectory, path_);
    return judged.ok() ? FSDirectoryWrapper::Fsync(options, debug) : judged;
  }
  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* debug,
                               const DirFsyncOptions& how) override {
    IOStatus judged = (*judge_)(kSyncDirectory, path_);
    return judged.ok() ? FSDirectoryWrapper::FsyncWithDirOptions(options, debug, how) : judged;
  }

 private:
  std::string path_;
  const Judge* judge_;
};

class FaultFileSystem : public FileSystemWrapper {
 public:
  FaultFileSystem(void* context, Ask ask, Forget forget)
      : FileSystemWrapper(FileSystem::Default()), judge_{context, ask, forget} {}

  static const char* kClassName() { return "FaultFileSystem"; }
  const char* Name() const override { return kClassName(); }

  IOStatus NewWritableFile(const std::string& path, const FileOptions& options,
                           std::unique_ptr<FSWritableFile>* file, IODebugContext* debug) override {
    IOStatus status = judge_(kCreate, path);
    if (status.ok()) status = target()->NewWritableFile(path, options, file, debug);
    if (status.ok()) file->reset(new File(std::move(*file), path, &judge_));
    return status;
  }
  IOStatus ReopenWritableFile(const std::string& path, const FileOptions& options,
                              std::unique_ptr<FSWritableFile>* file, IODebugContext* debug) override {
    IOStatus status = judge_(kReopen, path);
    if (status.ok()) status = target()->ReopenWritableFile(path, options, file, debug);
    if (status.ok()) file->reset(new File(std::move(*file), path, &judge_));
    return status;
  }
  IOStatus NewDirectory(const std::string& path, const IOOptions& options,
                        std::unique_ptr<FSDirectory>* directory, IODebugContext* debug) override {
    IOStatus status = target()->NewDirectory(path, options, directory, debug);
    if (status.ok()) directory->reset(new Directory(std::move(*directory), path, &judge_));
    return status;
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* debug) override {
    IOStatus judged = judge_(kRename, from, to);
    return judged.ok() ? target()->RenameFile(from, to, options, debug) : judged;
  }
  IOStatus LinkFile(const std::string& from, const std::string& to, const IOOptions& options,
                    IODebugContext* debug) override {
    IOStatus judged = judge_(kLink, from, to);
    return judged.ok() ? target()->LinkFile(from, to, options, debug) : judged;
  }
  IOStatus DeleteFile(const std::string& path, const IOOptions& options, IODebugContext* debug) override {
    IOStatus judged = judge_(kDelete, path);
    return judged.ok() ? target()->DeleteFile(path, options, debug) : judged;
  }
  // Syncs by name, for files that are not open for writing.
  IOStatus SyncFile(const std::string& path, const FileOptions& file_options, const IOOptions& options,
                    bool use_fsync, IODebugContext* debug) override {
    IOStatus judged = judge_(kSync, path);
    return judged.ok() ? target()->SyncFile(path, file_options, options, use_fsync, debug) : judged;
  }

 private:
  Judge judge_;
};

}  // namespace

// What rocksdb/c.h leaves opaque: `Env` of the Rust crate holds a pointer to it and destroys it.
struct rocksdb_env_t {
  Env* rep;
  bool is_default;
};

extern "C" rocksdb_env_t* fault_fs_env(void* context, Ask ask, Forget forget) {
  std::shared_ptr<FileSystem> files = std::make_shared<FaultFileSystem>(context, ask, forget);
  return new rocksdb_env_t{NewCompositeEnv(files).release(), false};
}
