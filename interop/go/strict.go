package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

// strictness makes the host refuse connections in the way that was asked for, or ask for a Retry.
func strictness(opts options) ([]libp2p.Option, error) {
	var reuse []quicreuse.Option
	if opts.retry {
		reuse = append(reuse, quicreuse.VerifySourceAddress(func(net.Addr) bool { return true }))
	}
	resources := libp2p.ResourceManager(&network.NullResourceManager{})
	all := []libp2p.Option{}
	switch opts.refuse {
	case "":
	case "context":
		reuse = append(reuse, quicreuse.ConnContext(
			func(context.Context, *quic.ClientInfo) (context.Context, error) {
				return nil, errors.New("not now")
			}))
	case "gater":
		all = append(all, libp2p.ConnectionGater(gater{}))
	case "limit":
		// A ConnContext of ours takes the place of libp2p's, which would refuse before the handshake.
		reuse = append(reuse, quicreuse.ConnContext(
			func(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) { return ctx, nil }))
		limits := rcmgr.PartialLimitConfig{System: rcmgr.ResourceLimits{ConnsInbound: rcmgr.BlockAllLimit}}
		manager, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.Build(rcmgr.DefaultLimits.AutoScale())))
		if err != nil {
			return nil, err
		}
		resources = libp2p.ResourceManager(manager)
	default:
		return nil, fmt.Errorf("%w: refuse by %s", errUnsupported, opts.refuse)
	}
	all = append(all, resources)
	if len(reuse) > 0 {
		all = append(all, libp2p.QUICReuse(quicreuse.NewConnManager, reuse...))
	}
	return all, nil
}

// gater lets nobody in.
type gater struct{}

func (gater) InterceptPeerDial(peer.ID) bool                                           { return true }
func (gater) InterceptAddrDial(peer.ID, ma.Multiaddr) bool                             { return true }
func (gater) InterceptAccept(network.ConnMultiaddrs) bool                              { return false }
func (gater) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool { return true }
func (gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason)          { return true, 0 }
