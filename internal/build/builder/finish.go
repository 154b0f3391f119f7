package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// appUser is who an app runs as, unless its own image names another number that is not root.
const appUser = "1000:1000"

// finishImage takes from an image's own configuration what a plan needs, and makes the image one that does not run as
// root. It returns the digest of the manifest, a new one if the configuration had to change.
func finishImage(ctx context.Context, store content.Store, d bulwark.Digest, plan *bulwark.Plan, missing string, ev *events) (bulwark.Digest, error) {
	desc := ocispecs.Descriptor{Digest: digest.Digest(d)}
	var manifest ocispecs.Manifest
	if err := readBlob(ctx, store, desc, &manifest); err != nil {
		return "", err
	}
	// The configuration is changed as text, so that what we do not know of stays.
	var config map[string]json.RawMessage
	if err := readBlob(ctx, store, manifest.Config, &config); err != nil {
		return "", err
	}
	var c imageConfig
	if err := json.Unmarshal(config["config"], &c); err != nil && config["config"] != nil {
		return "", bulwark.Fail(bulwark.KindInvalid, "The image's configuration is not well formed.", "", err)
	}
	if err := planFromConfig(&c, plan, missing, ev); err != nil {
		return "", err
	}
	if numericUser(c.User) {
		return d, nil
	}
	ev.note(fmt.Sprintf("The image's user is %q; it runs as %s", c.User, appUser))
	return replaceUser(ctx, store, manifest, config)
}

// imageConfig is what is read of the "config" object of an image's configuration.
type imageConfig struct {
	User         string
	Entrypoint   []string
	Cmd          []string
	ExposedPorts map[string]struct{}
}

func planFromConfig(c *imageConfig, plan *bulwark.Plan, missing string, ev *events) error {
	if len(plan.Processes) == 0 {
		argv := append(append([]string{}, c.Entrypoint...), c.Cmd...)
		if len(argv) == 0 {
			return bulwark.Invalid("The image does not say what it runs.", missing)
		}
		plan.Processes = map[bulwark.ProcessType]bulwark.Command{bulwark.ProcessWeb: {Argv: argv}}
		ev.note("  web: " + strings.Join(argv, " "))
	}
	if plan.Port != 0 || len(c.ExposedPorts) == 0 {
		return nil
	}
	if len(c.ExposedPorts) > 1 {
		ev.note("EXPOSE names several ports, so the app is told one in PORT; [web] port in bulwark.toml chooses")
		return nil
	}
	for key := range c.ExposedPorts {
		number, proto, _ := strings.Cut(key, "/")
		if n, err := strconv.ParseUint(number, 10, 16); err == nil && n > 0 && (proto == "" || proto == "tcp") {
			plan.Port = uint16(n)
			ev.note(fmt.Sprintf("Port %d, from EXPOSE", n))
		}
	}
	return nil
}

// numericUser reports whether an image's user is a number that is not root's and that an instance has. A name could be
// root by another name, for /etc/passwd is the image's.
func numericUser(s string) bool {
	user, group, grouped := strings.Cut(s, ":")
	ok := func(s string, least uint64) bool {
		n, err := strconv.ParseUint(s, 10, 32)
		return err == nil && n >= least && n < 65534
	}
	return ok(user, 1) && (!grouped || ok(group, 1))
}

func replaceUser(ctx context.Context, store content.Store, manifest ocispecs.Manifest, config map[string]json.RawMessage) (bulwark.Digest, error) {
	inner := map[string]json.RawMessage{}
	if config["config"] != nil {
		if err := json.Unmarshal(config["config"], &inner); err != nil {
			return "", err
		}
	}
	inner["User"] = json.RawMessage(strconv.Quote(appUser))
	var err error
	if config["config"], err = json.Marshal(inner); err != nil {
		return "", err
	}
	if manifest.Config, err = writeBlob(ctx, store, manifest.Config.MediaType, config); err != nil {
		return "", err
	}
	desc, err := writeBlob(ctx, store, ocispecs.MediaTypeImageManifest, manifest)
	return bulwark.Digest(desc.Digest), err
}

// finishDockerfile is finishImage for what a Dockerfile made.
func (p *planning) finishDockerfile(ctx context.Context, store content.Store, d bulwark.Digest, r *recipe) (bulwark.Digest, error) {
	return finishImage(ctx, store, d, &p.result, r.missing, p.ev)
}

// maxDocument bounds a manifest or configuration that is read as a whole.
const maxDocument = 4 << 20

func readBlob(ctx context.Context, store content.Store, desc ocispecs.Descriptor, v any) error {
	info, err := store.Info(ctx, desc.Digest)
	if err != nil {
		return err
	}
	if info.Size > maxDocument {
		return bulwark.Fail(bulwark.KindTooLarge, "A manifest or configuration of the image is larger than 4 MiB.", "", nil)
	}
	desc.Size = info.Size
	b, err := content.ReadBlob(ctx, store, desc)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return bulwark.Fail(bulwark.KindInvalid, "A manifest or configuration of the image is not well formed.", "", err)
	}
	return nil
}

func writeBlob(ctx context.Context, store content.Store, mediaType string, v any) (ocispecs.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	desc := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return desc, content.WriteBlob(ctx, store, desc.Digest.String(), bytes.NewReader(b), desc)
}
