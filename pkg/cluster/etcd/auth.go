package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// HostRole is the role of a host.
func HostRole(cluster, host string) string { return "vnetd-" + cluster + "-" + host }

// superuser is the user, and the role, that may do everything: the administrator is it.
const superuser = "root"

// AddHost makes the role of a host, which may read all of its cluster, and write what is
// its own and what belongs to whoever writes it first, and a user of the host's name.
func (s *Store) AddHost(ctx context.Context, cluster, host string) error {
	if err := record.CheckHost(host); err != nil {
		return err
	}
	if host == superuser {
		return fmt.Errorf("no host can be called %q: that is the user of etcd that may do everything", host)
	}
	top := record.Prefix(cluster)
	return s.addRole(ctx, HostRole(cluster, host), host, []grant{
		{top, authpb.READ},
		{record.HostPrefix(cluster, host), authpb.READWRITE},
		{top + string(record.KindBlock) + "/", authpb.READWRITE},
		{top + string(record.KindName) + "/", authpb.READWRITE},
		{top + string(record.KindRight) + "/", authpb.READWRITE},
		{top + string(record.KindWant) + "/", authpb.READWRITE},
	})
}

// LetDefine has a host's role write definitions of networks, and which VNI is whose, or no
// longer.
func (s *Store) LetDefine(ctx context.Context, cluster, host string, may bool) error {
	role := HostRole(cluster, host)
	for _, kind := range []record.Kind{record.KindNetwork, record.KindVNI} {
		prefix := record.Prefix(cluster) + string(kind) + "/"
		end, err := clientv3.GetPrefixRangeEnd(prefix), error(nil)
		if may {
			_, err = s.now().RoleGrantPermission(ctx, role, prefix, end, clientv3.PermissionType(authpb.READWRITE))
		} else {
			_, err = s.now().RoleRevokePermission(ctx, role, prefix, end)
		}
		if except(err, rpctypes.ErrPermissionNotGranted) != nil {
			return fmt.Errorf("etcd: role %s, keys that begin with %s: %w", role, prefix, err)
		}
	}
	return nil
}

// RemoveHost removes a host's role and user, and reports whether there was such a user.
func (s *Store) RemoveHost(ctx context.Context, cluster, host string) (bool, error) {
	_, err := s.now().UserDelete(ctx, host)
	_, err2 := s.now().RoleDelete(ctx, HostRole(cluster, host))
	return err == nil, errors.Join(except(err, rpctypes.ErrUserNotFound), except(err2, rpctypes.ErrRoleNotFound))
}

// grant is a right to what begins with a prefix.
type grant struct {
	prefix string
	kind   authpb.Permission_Type
}

// addRole makes a role and a user with it. What is there already stays.
func (s *Store) addRole(ctx context.Context, role, user string, grants []grant) error {
	if _, err := s.now().RoleAdd(ctx, role); except(err, rpctypes.ErrRoleAlreadyExist) != nil {
		return fmt.Errorf("etcd: role %s: %w", role, err)
	}
	for _, g := range grants {
		_, err := s.now().RoleGrantPermission(ctx, role, g.prefix, clientv3.GetPrefixRangeEnd(g.prefix), clientv3.PermissionType(g.kind))
		if err != nil {
			return fmt.Errorf("etcd: role %s, keys that begin with %s: %w", role, g.prefix, err)
		}
	}
	_, err := s.now().UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true})
	if except(err, rpctypes.ErrUserAlreadyExist) != nil {
		return fmt.Errorf("etcd: user %s: %w", user, err)
	}
	if _, err := s.now().UserGrantRole(ctx, user, role); err != nil {
		return fmt.Errorf("etcd: user %s, role %s: %w", user, role, err)
	}
	return nil
}

// EnableAuth has etcd ask everybody who they are, if it does not yet. From then on its
// administrator comes with a certificate of the common name root. An etcd that asks nobody
// for a certificate is refused: it would let in nobody any more.
func (s *Store) EnableAuth(ctx context.Context) error {
	if err := s.asksForCertificates(ctx); err != nil {
		return err
	}
	_, err := s.now().UserAddWithOptions(ctx, superuser, "", &clientv3.UserAddOptions{NoPassword: true})
	if except(err, rpctypes.ErrUserAlreadyExist) != nil {
		return fmt.Errorf("etcd: user %s: %w", superuser, err)
	}
	if _, err := s.now().RoleAdd(ctx, superuser); except(err, rpctypes.ErrRoleAlreadyExist) != nil {
		return fmt.Errorf("etcd: role %s: %w", superuser, err)
	}
	if _, err := s.now().UserGrantRole(ctx, superuser, superuser); err != nil {
		return fmt.Errorf("etcd: user %s: %w", superuser, err)
	}
	if _, err := s.now().AuthEnable(ctx); err != nil {
		return fmt.Errorf("etcd: authentication: %w", err)
	}
	return nil
}

// except is an error, unless it is one that does no harm.
func except(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}
