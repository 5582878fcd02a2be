package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// volume is one volume's place on the node: a directory, and for a size-limited one the file that holds its file system.
type volume struct{ root, name string }

func (v volume) path() string { return filepath.Join(v.root, v.name) }

// image is where the supervisor of the cluster looks too: it mounts every *.img again when the cluster starts.
func (v volume) image() string { return v.path() + ".img" }

func (v volume) makeDirectory() error {
	return os.MkdirAll(v.path(), 0o755)
}

// makeLimited makes an ext4 file system of exactly the given size. The file is sparse: only what is written takes space.
func (v volume) makeLimited(ctx context.Context, size int64) error {
	if err := v.makeDirectory(); err != nil {
		return err
	}
	mounted, err := isMountPoint(v.path())
	if err != nil || mounted {
		return err
	}
	// A name of its own until it is complete, so that a file system cut short is never mounted.
	partial := v.image() + ".partial"
	if _, err := os.Stat(v.image()); errors.Is(err, os.ErrNotExist) {
		if err := makeSparse(partial, size); err != nil {
			return err
		}
		if err := run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", partial); err != nil {
			return fmt.Errorf("volume %s of %d bytes: %w", v.name, size, err)
		}
		if err := os.Rename(partial, v.image()); err != nil {
			return err
		}
	}
	return run(ctx, "mount", "-o", "loop", v.image(), v.path())
}

func makeSparse(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Truncate(size), file.Close())
}

// grant sets owner and mode explicitly: the umask would cut the mode of a made directory.
func (v volume) grant(params parameters) error {
	if err := os.Chown(v.path(), params.uid, params.gid); err != nil {
		return err
	}
	return unix.Chmod(v.path(), uint32(params.mode))
}

// remove unmounts first; the loop device goes with its last mount.
func (v volume) remove(ctx context.Context) error {
	mounted, err := isMountPoint(v.path())
	if err != nil {
		return err
	}
	if mounted {
		if err := run(ctx, "umount", v.path()); err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(v.path()), os.RemoveAll(v.image()), os.RemoveAll(v.image()+".partial"))
}

// isMountPoint compares devices: a mounted file system has another one than the directory above it.
func isMountPoint(path string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Stat(path, &here); errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	if err := unix.Stat(filepath.Dir(path), &above); err != nil {
		return false, fmt.Errorf("stat %s: %w", filepath.Dir(path), err)
	}
	return here.Dev != above.Dev, nil
}

func run(ctx context.Context, name string, args ...string) error {
	output, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}
