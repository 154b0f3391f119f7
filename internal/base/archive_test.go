package base

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bulwark-paas/bulwark"
)

// smallBases makes every base, each with hardly anything in it.
func smallBases(t *testing.T) Index {
	t.Helper()
	work, dir := t.TempDir(), t.TempDir()
	index := Index{}
	for _, r := range Recipes() {
		l, err := writeLayer(archive(t, file("name", r.Name)), filepath.Join(work, r.Name+".layer"))
		if err != nil {
			t.Fatal(err)
		}
		layer, err := compressed(l)
		if err != nil {
			t.Fatal(err)
		}
		d, err := writeImage(r, nil, []v1.Layer{layer}, filepath.Join(work, r.Name), filepath.Join(dir, r.Name))
		if err != nil {
			t.Fatal(err)
		}
		index[r.Name] = Image{Layout: filepath.Join(dir, r.Name), Digest: d, Versions: r.versions()}
	}
	return index
}

// packed returns an archive's members and its key.
func packed(t *testing.T, index Index) ([]member, string) {
	t.Helper()
	var buf bytes.Buffer
	key, err := Pack(index, &buf)
	if err != nil {
		t.Fatal(err)
	}
	var out []member
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, key
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, member{*h, string(b)})
	}
}

func tarOf(t *testing.T, members []member) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, m := range members {
		m.hdr.Size = int64(len(m.content))
		if err := w.WriteHeader(&m.hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestArchiveComesOutAsItWentIn(t *testing.T) {
	index := smallBases(t)
	members, key := packed(t, index)
	dir := t.TempDir()
	for range 2 { // the second time it is there already
		got, err := Add(t.Context(), dir, bytes.NewReader(tarOf(t, members)))
		if err != nil || got != filepath.Join(dir, key) {
			t.Fatalf("added to %q, %v; the key is %s", got, err, key)
		}
	}
	sets := List(dir)
	if len(sets) != 1 || len(sets[0].Index) != len(index) {
		t.Fatalf("listed %v", sets)
	}
	for name, img := range sets[0].Index {
		if d, err := layoutDigest(img.Layout); err != nil || d != index[name].Digest || img.Digest != d {
			t.Errorf("%s is %s and should be %s: %v", name, d, index[name].Digest, err)
		}
		if i, err := openLayout(img.Layout); err != nil {
			t.Error(err)
		} else if l, err := i.Layers(); err != nil || len(l) != 1 {
			t.Errorf("%s has layers %v, %v", name, l, err)
		}
		if st, err := os.Stat(img.Layout); err != nil || st.Mode().Perm() != 0o755 {
			t.Errorf("builders cannot read %s: %v, %v", name, st.Mode(), err)
		}
	}
	// What a power cut left is made anew.
	if err := os.Remove(filepath.Join(dir, key, indexFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Add(t.Context(), dir, bytes.NewReader(tarOf(t, members))); err != nil || len(List(dir)) != 1 {
		t.Errorf("damaged bases were not replaced: %v", err)
	}
}

func TestHostileArchiveIsRefused(t *testing.T) {
	index := smallBases(t)
	good, _ := packed(t, index)
	// change returns a copy of the good members after f.
	change := func(f func(m []member) []member) []byte {
		return tarOf(t, f(append([]member(nil), good...)))
	}
	add := func(h tar.Header, content string) []byte {
		h.Mode = 0o644
		return change(func(m []member) []member { return append(m, member{h, content}) })
	}
	document := func(f func(*v1.IndexManifest)) []byte {
		return change(func(m []member) []member {
			for i := range m {
				if m[i].hdr.Name != "index.json" {
					continue
				}
				var all v1.IndexManifest
				if err := json.Unmarshal([]byte(m[i].content), &all); err != nil {
					t.Fatal(err)
				}
				f(&all)
				b, err := json.Marshal(all)
				if err != nil {
					t.Fatal(err)
				}
				m[i].content = string(b)
			}
			return m
		})
	}
	other := strings.Repeat("ab", 32)
	whole := tarOf(t, good)
	for name, bytes := range map[string][]byte{
		"empty":               {},
		"no tar":              []byte(strings.Repeat("x", 4096)),
		"truncated in a blob": whole[:len(whole)/2/512*512+100],
		"a blob is missing":   change(func(m []member) []member { return m[:len(m)-1] }),
		"a blob more":         add(tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + bulwark.Sum([]byte("more")).Hex()}, "more"),
		"a blob twice":        change(func(m []member) []member { return append(m, m[len(m)-1]) }),
		"wrong digest":        add(tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + other}, "more"),
		"no digest":           add(tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/ABC"}, "more"),
		"climbs out":          add(tar.Header{Typeflag: tar.TypeReg, Name: "../../../outside"}, "more"),
		"climbs out of blobs": add(tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/../../../outside"}, "more"),
		"absolute":            add(tar.Header{Typeflag: tar.TypeReg, Name: "/outside"}, "more"),
		"symbolic link":       add(tar.Header{Typeflag: tar.TypeSymlink, Name: "blobs/sha256/" + other, Linkname: "/etc/passwd"}, ""),
		"hard link":           add(tar.Header{Typeflag: tar.TypeLink, Name: "blobs/sha256/" + other, Linkname: "index.json"}, ""),
		"device":              add(tar.Header{Typeflag: tar.TypeChar, Name: "blobs/sha256/" + other}, ""),
		"folder":              add(tar.Header{Typeflag: tar.TypeDir, Name: "blobs/"}, ""),
		"long index": change(func(m []member) []member {
			return append(m, member{tar.Header{Typeflag: tar.TypeReg, Name: "index.json", Mode: 0o644}, strings.Repeat(" ", maxDocument+1)})
		}),
		"unknown base":    document(func(i *v1.IndexManifest) { i.Manifests[0].Annotations[nameAnnotation] = "../../evil" }),
		"base is missing": document(func(i *v1.IndexManifest) { i.Manifests = i.Manifests[1:] }),
		"base is twice":   document(func(i *v1.IndexManifest) { i.Manifests = append(i.Manifests, i.Manifests[0]) }),
		"bases are swapped": document(func(i *v1.IndexManifest) {
			i.Manifests[0].Digest, i.Manifests[1].Digest = i.Manifests[1].Digest, i.Manifests[0].Digest
		}),
		"wrong size": document(func(i *v1.IndexManifest) { i.Manifests[0].Size++ }),
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			dir := filepath.Join(top, "a", "b")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			got, err := Add(t.Context(), dir, strings.NewReader(string(bytes)))
			if bulwark.KindOf(err) != bulwark.KindInvalid {
				t.Errorf("it was taken: %q, %v", got, err)
			}
			var left []string
			_ = filepath.WalkDir(top, func(path string, d os.DirEntry, _ error) error {
				if !d.IsDir() && d.Name() != ".lock" || strings.HasPrefix(d.Name(), ".work-") {
					left = append(left, path)
				}
				return nil
			})
			if left != nil {
				t.Errorf("it left %q", left)
			}
		})
	}
}
