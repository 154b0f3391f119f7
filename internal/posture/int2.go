package posture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func int2() Control {
	return Control{ID: "INT-2", Version: 1, Every: hourly,
		Promise: "An image cannot change once it was produced.",
		Tries:   "Flips a byte in the unpacked layer and in the manifest of the model app's image, as root on the disk, and starts the app each time.",
		Probe:   probeINT2}
}

func probeINT2(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	image, err := w.Person.image(ctx, app)
	if err != nil {
		return err
	}
	store := filepath.Join(w.Installation.NodeDir(), "images")
	manifest := filepath.Join(store, "blobs/sha256", strings.TrimPrefix(image, "sha256:"))
	layer, at, err := findIn(filepath.Join(store, "layers"), []byte(w.Person.mark()))
	if err != nil {
		return fmt.Errorf("the model's layer: %w", err)
	}
	starts := func(when string) {
		_, err := w.Person.InModel(ctx, app, "resolve", "localhost")
		r.Proven("the app starts "+when, err == nil, fmt.Sprint(err))
	}
	starts("before anything was changed")
	for _, t := range []struct {
		what, path string
		at         int64
	}{{"one byte of the unpacked layer", layer, at}, {"one byte of the manifest", manifest, 1}} {
		err := flipped(t.path, t.at, func() {
			_, err := w.Person.InModel(ctx, app, "resolve", "localhost")
			refused := err != nil && strings.Contains(err.Error(), "changed on disk")
			r.Refused("start an image of which "+t.what+" was changed", refused, fmt.Sprint(err))
		})
		if err != nil {
			return err
		}
		starts("when " + t.what + " is back")
	}
	return nil
}

// flipped changes a byte of a file while f runs, and changes it back.
func flipped(path string, at int64, f func()) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	var b [1]byte
	if _, err := file.ReadAt(b[:], at); err != nil {
		return err
	}
	back := b
	b[0] ^= 1
	if _, err := file.WriteAt(b[:], at); err != nil {
		return err
	}
	f()
	_, err = file.WriteAt(back[:], at)
	return errors.Join(err, file.Sync())
}

// findIn finds the newest file of a folder that holds some bytes, and where.
func findIn(dir string, what []byte) (path string, at int64, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return "", 0, err
	}
	var newest int64
	for _, e := range files {
		st, err := e.Info()
		if err != nil || st.Size() > 256<<20 || st.ModTime().UnixNano() < newest {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // collected meanwhile
		}
		if i := bytes.Index(b, what); i >= 0 {
			path, at, newest = filepath.Join(dir, e.Name()), int64(i), st.ModTime().UnixNano()
		}
	}
	if path == "" {
		return "", 0, fmt.Errorf("no file in %s has it", dir)
	}
	return path, at, nil
}

// image is the digest of the image that the app's promoted release runs.
func (p *Person) image(ctx context.Context, app string) (string, error) {
	var all []struct {
		State string `json:"state"`
		Image string `json:"image"`
	}
	out, err := p.Do(ctx, "releases", "--app", app, "--json")
	if err == nil {
		err = json.Unmarshal(out, &all)
	}
	for _, rel := range all {
		if rel.State == "promoted" && rel.Image != "" {
			return rel.Image, nil
		}
	}
	return "", errors.Join(errors.New("the model app has no release"), err)
}
