package sbom

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Format is the format of a document.
type Format string

// The formats.
const (
	SPDX      Format = "spdx"
	CycloneDX Format = "cyclonedx"
)

// MediaType is the registered name of a format.
func (f Format) MediaType() string {
	if f == CycloneDX {
		return "application/vnd.cyclonedx+json"
	}
	return "application/spdx+json"
}

// Formats are all that are written.
func Formats() []Format { return []Format{SPDX, CycloneDX} }

// Image is what a document is about.
type Image struct {
	Name   bulwark.AppName
	Digest bulwark.Digest
	Build  bulwark.BuildID // by which the document has a name of its own
	Made   time.Time
}

// MaxDocument bounds a document in bytes: what the bounds on contents come to, with what the formats put around them.
const MaxDocument = 64 << 20

// Write writes the contents of an image in a format. The document ends with a line end.
func Write(f Format, image Image, c *Contents) ([]byte, error) {
	var b []byte
	var err error
	switch f {
	case SPDX:
		b, err = spdx(image, c)
	case CycloneDX:
		b, err = cyclone(image, c)
	default:
		return nil, bulwark.Invalid(fmt.Sprintf("%q is no format of an SBOM.", f), "There are spdx and cyclonedx.")
	}
	if err != nil {
		return nil, fmt.Errorf("sbom: %w", err)
	}
	if len(b) > MaxDocument {
		return nil, bulwark.Failf(bulwark.KindTooLarge, "The SBOM of the image is larger than %d MiB.", MaxDocument>>20)
	}
	return b, nil
}

// about is what both formats say of how a list came about, and of what is missing in it.
const about = "Components are those that package lists, package folders and programs in the image tell of: Debian packages, " +
	"Go modules, npm and Python packages, the Node.js runtime. Names and versions are what the image's author put there."

// url is the package URL of the image itself.
func (i Image) url() string {
	return fmt.Sprintf("pkg:oci/%s@sha256%%3A%s", i.Name, i.Digest.Hex())
}

// uuid is a version 8 UUID (RFC 9562) that follows from the build and the image: the same document has the same one.
func (i Image) uuid() string {
	h := sha256.Sum256([]byte("bulwark sbom 1\x00" + string(i.Build) + "\x00" + string(i.Digest)))
	u := h[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// made is the time in the form that both formats take.
func (i Image) made() string { return i.Made.UTC().Format(time.RFC3339) }
