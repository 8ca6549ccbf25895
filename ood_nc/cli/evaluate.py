"""placeholder while rooms land"""
